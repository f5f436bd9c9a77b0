"""How estimated values spread: closed forms against enumeration, simulation and limits."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qsft_lite.loss import q_sft_loss
from qsft_lite.tabular.theory import fit_records, simulate_values, value_spread

REPETITIONS = 20_000
seeds = st.integers(0, 2**32)
# N, pi, q, variance of the outcome: 0 or 1, constant, and between the two.
CASES = [
    (1, 1.0, 0.4, 0.24),
    (1, 0.3, 0.6, 0.1),
    (20, 0.3, 0.7, 0.0),
    (40, 0.5, 0.2, 0.03),
    (100, 0.1, 0.5, 0.25),
    (300, 0.05, 0.5, 0.0),
    (200, 0.9, 0.3, 0.21),
    (30, 0.4, 1.0, 0.0),
    (30, 0.4, 0.0, 0.0),
]


def draw_records(seed, n_records=12, n_actions=3):
    rng = np.random.default_rng(seed)
    actions = rng.integers(0, n_actions, size=n_records)
    return actions, rng.choice([0.0, 0.25, 0.5, 1.0], size=n_records)


def fit_by_loops(actions, outcomes, n_actions):
    """pi, p and q of every action with Python sums."""
    pi, p, q = [], [], []
    for action in range(n_actions):
        of_action = [y for a, y in zip(actions, outcomes, strict=True) if a == action]
        pi.append(len(of_action) / len(actions))
        p.append(sum(of_action) / len(actions))
        q.append(sum(of_action) / len(of_action) if of_action else float("nan"))
    return pi, p, q


def descend(loss, n_logits):
    """Logits (n_logits,) at which a convex loss is smallest, by L-BFGS from 0."""
    z = torch.zeros(n_logits, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [z], max_iter=2000, tolerance_grad=1e-10, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        value = loss(z)
        value.backward()
        return value

    optimizer.step(closure)
    return z.detach()


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_fit_equals_plain_loops(seed):
    actions, outcomes = draw_records(seed)
    fit = fit_records(actions, outcomes, 3)
    pi, p, q = fit_by_loops(actions, outcomes, 3)
    assert np.allclose(fit.behavior, pi) and np.allclose(fit.p, p)
    assert np.allclose(fit.q, q, equal_nan=True)
    assert np.isclose(fit.dummy, 1 - sum(p))
    # Leading axes are fitted one by one.
    stacked = fit_records(np.stack([actions, actions]), np.stack([outcomes, 1 - outcomes]), 3)
    assert np.allclose(stacked.p[0], p)
    assert np.allclose(stacked.q[1], 1 - np.array(q), equal_nan=True)


@given(seeds)
@settings(max_examples=15, deadline=None)
def test_one_dummy_lands_on_the_fit_by_descent(seed):
    actions, outcomes = draw_records(seed)
    a, y = torch.from_numpy(actions), torch.from_numpy(outcomes)
    z = descend(lambda z: q_sft_loss(z.expand(len(a), 4), a, y, leftover=3), 4)
    fit = fit_records(actions, outcomes, 3)
    assert np.allclose(z.softmax(-1)[:3], fit.p, atol=1e-5)
    assert np.allclose(z.softmax(-1)[3], fit.dummy, atol=1e-5)


@given(seeds)
@settings(max_examples=15, deadline=None)
def test_a_dummy_for_every_action_lands_on_the_fit_by_descent(seed):
    """Six tokens, three actions and their dummies: the loss as it stands before it is split."""
    actions, outcomes = draw_records(seed)
    a, y = torch.from_numpy(actions), torch.from_numpy(outcomes)
    rows = torch.arange(len(a))

    def loss(z):
        log_p = z.log_softmax(-1).expand(len(a), 6)
        return -(y * log_p[rows, a] + (1 - y) * log_p[rows, a + 3]).mean()

    p = descend(loss, 6).softmax(-1).numpy()
    fit = fit_records(actions, outcomes, 3)
    there = fit.behavior > 0
    assert np.allclose((p[:3] / (p[:3] + p[3:]))[there], fit.q[there], atol=1e-4)
    assert np.allclose(p[:3] + p[3:], fit.behavior, atol=1e-5)
    assert np.isclose(p[3:].sum(), fit.dummy, atol=1e-5)  # together the one dummy


@given(seeds)
@settings(max_examples=15, deadline=None)
def test_the_paired_loss_finds_the_same_q_beside_any_frozen_policy(seed):
    actions, outcomes = draw_records(seed)
    a, y = torch.from_numpy(actions), torch.from_numpy(outcomes)
    frozen = torch.from_numpy(np.random.default_rng(seed).normal(0, 3, 3))  # logits z_phi

    def loss(z):
        q = (z - frozen)[a].sigmoid().clamp(1e-300, 1)
        rest = (frozen - z)[a].sigmoid().clamp(1e-300, 1)
        return -(y * q.log() + (1 - y) * rest.log()).mean()

    q = (descend(loss, 3) - frozen).sigmoid().numpy()
    fit = fit_records(actions, outcomes, 3)
    there = fit.behavior > 0
    assert np.allclose(q[there], fit.q[there], atol=1e-4)


def enumerated(n_records, pi, q):
    """Mean and variance of the four estimates for outcomes 0 and 1, over all sets of records."""
    kinds = [(False, 0, 1 - pi), (True, 0, pi * (1 - q)), (True, 1, pi * q)]
    sets = []  # sum of y where the action is taken, its count, the probability of the set
    for records in itertools.product(kinds, repeat=n_records):
        chance = np.prod([r[2] for r in records])
        sets.append((sum(r[1] for r in records), sum(r[0] for r in records), chance))
    estimates = {"known policy": [], "other counts": [], "same counts": [], "paired": []}
    for total, count, chance in sets:
        estimates["known policy"].append((total / n_records / pi, chance))
        if count:
            quotient = (total / n_records) / (count / n_records)
            estimates["same counts"].append((quotient, chance))
            estimates["paired"].append((total / count, chance))
        for _, other, other_chance in sets:
            if other:
                estimates["other counts"].append((total / other, chance * other_chance))
    moments = {}
    for name, pairs in estimates.items():
        values, weights = np.array(pairs).T
        mean = np.average(values, weights=weights)
        moments[name] = mean, np.average((values - mean) ** 2, weights=weights)
    return moments


@pytest.mark.parametrize("n_records", [1, 2, 5])
@pytest.mark.parametrize(("pi", "q"), [(0.3, 0.6), (0.02, 0.9), (0.9, 0.25), (1.0, 0.5)])
def test_closed_forms_equal_the_sum_over_all_sets_of_records(n_records, pi, q):
    closed = value_spread(n_records, pi, q, q * (1 - q))
    for name, (mean, variance) in enumerated(n_records, pi, q).items():
        assert np.isclose(closed[name].mean, mean, rtol=1e-9), name
        assert np.isclose(closed[name].variance, variance, rtol=1e-9, atol=1e-15), name
        assert np.isclose(closed[name].deviation, variance**0.5, atol=1e-7), name


def assert_simulation_agrees(case, seed, errors):
    """Means and variances within so many standard errors, which the draws themselves give."""
    closed = value_spread(*case)
    for name, values in simulate_values(*case, repetitions=REPETITIONS, seed=seed).items():
        values = values[np.isfinite(values)]
        n, squares = len(values), (values - values.mean()) ** 2
        expected = closed[name]
        assert n > 1000
        mean_error, variance_error = values.std() / n**0.5, squares.std() / n**0.5
        label = f"{name}, {case}, seed {seed}"
        assert abs(values.mean() - expected.mean) <= errors * mean_error + 1e-9, label
        assert abs(squares.mean() - expected.variance) <= errors * variance_error + 1e-9, label


@pytest.mark.parametrize("case", CASES, ids=str)
def test_closed_forms_equal_the_simulation(case):
    assert_simulation_agrees(case, seed=0, errors=5)


@given(seeds, st.sampled_from(CASES))
@settings(max_examples=10, deadline=None)
def test_closed_forms_equal_the_simulation_on_fresh_seeds(seed, case):
    assert_simulation_agrees(case, seed=seed, errors=7)


@given(seeds, st.sampled_from(CASES))
@settings(max_examples=10, deadline=None)
def test_the_quotient_by_the_same_counts_is_the_paired_value(seed, case):
    estimates = simulate_values(*case, repetitions=200, seed=seed)
    assert np.allclose(estimates["same counts"], estimates["paired"], equal_nan=True)


def test_an_outcome_that_never_varies_leaves_the_paired_value_no_spread():
    n, pi, q = 1000, 0.1, 0.5
    closed = value_spread(n, pi, q, 0.0)
    assert closed["paired"].variance == 0
    assert np.isclose(closed["known policy"].deviation, q * ((1 / pi - 1) / n) ** 0.5)
    drawn = simulate_values(n, pi, q, 0.0, repetitions=100, seed=0)
    assert np.allclose(drawn["paired"], q, atol=1e-12)
    assert drawn["known policy"].std() > 0.03


def test_large_counts_reach_the_limits_of_the_docstring():
    n, pi, q, variance = 1_000_000, 0.1, 0.5, 0.04
    closed = value_spread(n, pi, q, variance)
    noise_of_count = q**2 * (1 / pi - 1)
    assert np.isclose(closed["paired"].variance * n, variance / pi, rtol=1e-3)
    assert np.isclose(closed["known policy"].variance * n, variance / pi + noise_of_count)
    expected = variance / pi + 2 * noise_of_count
    assert np.isclose(closed["other counts"].variance * n, expected, rtol=1e-3)


def test_an_action_always_taken_needs_no_division():
    for spread in value_spread(50, 1.0, 0.3, 0.1).values():
        assert np.isclose(spread.mean, 0.3) and np.isclose(spread.variance, 0.1 / 50)


def test_a_hardly_ever_taken_action_has_one_record_when_it_has_any():
    closed = value_spread(5, 1e-9, 0.4, 0.24)
    assert np.isclose(closed["paired"].variance, 0.24)
    assert np.isclose(closed["paired"].mean, 0.4)
    assert closed["known policy"].deviation > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0.5, 0.5, 0.1), "n_records must be at least 1, got 0"),
        ((5, 0.0, 0.5, 0.1), r"probability must be in \(0, 1\], got 0.0"),
        ((5, float("nan"), 0.5, 0.1), "probability must be in"),
        ((5, 0.5, 1.2, 0.0), r"value must be in \[0, 1\], got 1.2"),
        ((5, 0.5, 0.5, 0.3), r"variance must be in \[0, 0.25\]"),
        ((5, 0.5, 0.5, -0.1), "variance must be in"),
    ],
)
def test_outcomes_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        value_spread(*arguments)
    with pytest.raises(ValueError, match=message):
        simulate_values(*arguments, repetitions=10, seed=0)
