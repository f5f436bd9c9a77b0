"""Exact answers against independent truth: hand-solved MDPs, brute force, and closed forms."""

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsft_lite.tabular import (
    TabularMDP,
    bellman_backup,
    extract_policy,
    leaked_mass,
    mdps,
    policy_return,
    policy_value,
    probability_ratio,
    q_sft,
    q_sft_probabilities,
    supported_actions,
    value_iteration,
)
from qsft_lite.tabular.theory import behavior_threshold, max_bias, theorem_bounds

BACKUPS = ("max", "support", "behavior")
seeds = st.integers(0, 10_000)
sizes = st.tuples(st.integers(1, 6), st.integers(2, 5))


def small_mdp(size, seed, gamma=0.9):
    """A random MDP whose rows sum to anything up to 1, and a policy with some zeros."""
    rng = np.random.default_rng(seed)
    n_states, n_actions = size
    P = rng.dirichlet(np.ones(n_states), size=(n_states, n_actions))
    P *= rng.choice([0.0, 0.5, 1.0], size=(n_states, n_actions, 1))
    mdp = TabularMDP(P, rng.random((n_states, n_actions)) * (1 - gamma), gamma)
    policy = rng.dirichlet(np.ones(n_actions), size=n_states)
    policy[rng.random(policy.shape) < 0.2] = 0
    policy[policy.sum(axis=1) == 0] = 1
    return mdp, policy / policy.sum(axis=1, keepdims=True)


def test_chain_values_by_hand():
    q = value_iteration(mdps.chain(3, gamma=0.5))
    assert np.allclose(q, [[0.125, 0.25], [0.125, 0.5], [0.25, 1.0]])


def test_policy_value_by_hand():
    # One state: earn 0.1 and stay with probability 0.5: V = 0.1 + 0.9 * 0.5 * V.
    mdp = TabularMDP(np.full((1, 1, 1), 0.5), np.full((1, 1), 0.1), 0.9)
    assert policy_value(mdp, np.ones((1, 1))) == pytest.approx(0.1 / 0.55)


@given(sizes, seeds)
@settings(max_examples=30, deadline=None)
def test_value_iteration_is_the_best_of_all_deterministic_policies(size, seed):
    size = (min(size[0], 4), min(size[1], 3))
    mdp, _ = small_mdp(size, seed)
    best = np.max(
        [
            policy_value(mdp, np.eye(mdp.n_actions)[list(choice)])
            for choice in itertools.product(range(mdp.n_actions), repeat=mdp.n_states)
        ],
        axis=0,
    )
    assert np.allclose(value_iteration(mdp).max(axis=1), best, atol=1e-9)


@given(sizes, seeds)
@settings(max_examples=30, deadline=None)
def test_value_iteration_satisfies_the_bellman_equation(size, seed):
    mdp, _ = small_mdp(size, seed)
    q = value_iteration(mdp, tol=1e-10)
    assert np.allclose(bellman_backup(mdp, q.max(axis=1)), q, atol=1e-10)


def naive_probabilities(pi, y, leftover):
    """Section 3 of the derivation, one state, one action at a time, with Python sums."""
    n = len(pi)
    if leftover != "uniform":
        return [pi[a] * y[a] for a in range(n)]
    return [
        pi[a] * y[a] + sum(pi[b] * (1 - y[b]) / (n - 1) for b in range(n) if b != a)
        for a in range(n)
    ]


def naive_state_value(pi, p, backup, support):
    if backup == "behavior":
        return sum(p)
    allowed = [a for a in range(len(pi)) if pi[a] > 0]
    if backup == "support":
        common = [a for a in allowed if pi[a] >= support]
        allowed = common or [a for a in allowed if pi[a] == max(pi)]
    return max(p[a] / pi[a] for a in allowed)


@pytest.mark.parametrize("backup", BACKUPS)
@pytest.mark.parametrize("leftover", ["uniform", "dummy", "paired"])
@given(size=sizes, seed=seeds, support=st.sampled_from([0.0, 0.1, 0.9]))
@settings(max_examples=25, deadline=None)
def test_fixed_point_holds_by_a_naive_recomputation(leftover, backup, size, seed, support):
    mdp, pi = small_mdp(size, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        result = q_sft(mdp, pi, leftover=leftover, backup=backup, support=support)
    p = np.array(
        [naive_probabilities(pi[s], result.target[s], leftover) for s in range(mdp.n_states)]
    )
    assert np.allclose(result.p, p, atol=1e-12)
    assert np.allclose(result.p.sum(axis=1) + result.dummy, 1)
    assert (result.dummy >= -1e-12).all()
    values = np.array(
        [naive_state_value(pi[s], p[s], backup, support) for s in range(mdp.n_states)]
    )
    target = np.clip(bellman_backup(mdp, values), 0, 1)
    # A fixed point that did not settle has to say so.
    assert np.abs(target - result.target).max() <= max(result.residual * 1.01, 1e-9)
    assert result.converged == (result.residual <= 1e-10)


@given(sizes, seeds)
@settings(max_examples=40, deadline=None)
def test_dummy_form_with_full_support_is_exactly_q_star(size, seed):
    mdp, pi = small_mdp(size, seed)
    pi = 0.9 * pi + 0.1 / mdp.n_actions
    q_star = value_iteration(mdp)
    result = q_sft(mdp, pi, leftover="dummy")
    assert np.allclose(result.target, q_star, atol=1e-9)
    assert np.allclose(probability_ratio(result.p, pi), q_star, atol=1e-9)
    bounds = theorem_bounds(result.p, pi, q_star)
    assert bounds.upper_violations == 0 and bounds.lower_violations == 0
    assert np.allclose(result.p, pi * q_star)
    assert np.allclose(max_bias(result.p, pi, q_star), 0, atol=1e-9)


@given(sizes, seeds)
@settings(max_examples=40, deadline=None)
def test_behavior_backup_of_the_dummy_form_is_the_behavior_value(size, seed):
    mdp, pi = small_mdp(size, seed)
    result = q_sft(mdp, pi, leftover="dummy", backup="behavior")
    assert np.allclose(1 - result.dummy, policy_value(mdp, pi), atol=1e-9)


@given(sizes, seeds)
@settings(max_examples=40, deadline=None)
def test_support_backup_is_value_iteration_without_the_rare_actions(size, seed):
    mdp, pi = small_mdp(size, seed)
    result = q_sft(mdp, pi, leftover="dummy", backup="support", support=0.2)
    common = (pi >= 0.2) | (pi == pi.max(axis=1, keepdims=True))
    values = np.zeros(mdp.n_states)
    for _ in range(400):
        values = np.where(common, bellman_backup(mdp, values), -np.inf).max(axis=1)
    assert np.allclose(result.target, bellman_backup(mdp, values), atol=1e-9)


@pytest.mark.parametrize("backup", BACKUPS)
@given(size=sizes, seed=seeds, support=st.sampled_from([0.0, 0.1, 0.9]))
@settings(max_examples=25, deadline=None)
def test_a_dummy_for_every_action_has_the_fixed_points_of_one_dummy(backup, size, seed, support):
    mdp, pi = small_mdp(size, seed)
    one, paired = (
        q_sft(mdp, pi, leftover=leftover, backup=backup, support=support)
        for leftover in ("dummy", "paired")
    )
    q = paired.target
    assert np.allclose(paired.p, pi * q, atol=1e-12)
    assert np.allclose(paired.dummy, (pi * (1 - q)).sum(axis=1), atol=1e-12)
    assert np.allclose(q, one.target, atol=1e-9)
    assert np.allclose(paired.p, one.p, atol=1e-9)
    assert np.allclose(paired.dummy, one.dummy, atol=1e-9)


@given(sizes, seeds)
@settings(max_examples=40, deadline=None)
def test_theorem_4_1_holds_for_a_dummy_for_every_action(size, seed):
    mdp, pi = small_mdp(size, seed)
    pi = 0.5 * pi + 0.5 / mdp.n_actions
    q_star = value_iteration(mdp)
    result = q_sft(mdp, pi, leftover="paired")
    assert theorem_bounds(result.p, pi, q_star) == (0.0, 0.0)
    assert np.allclose(result.target, q_star, atol=1e-9)


@given(sizes, seeds)
@settings(max_examples=40, deadline=None)
def test_behavior_backup_of_the_paired_form_is_the_expectation_of_q(size, seed):
    mdp, pi = small_mdp(size, seed)
    result = q_sft(mdp, pi, leftover="paired", backup="behavior")
    values = policy_value(mdp, pi)
    assert np.allclose((pi * result.target).sum(axis=1), values, atol=1e-9)
    assert np.allclose(result.target, bellman_backup(mdp, values), atol=1e-9)


@given(sizes, seeds)
@settings(max_examples=40, deadline=None)
def test_lower_bound_of_theorem_4_1_holds_for_both_forms(size, seed):
    mdp, pi = small_mdp(size, seed)
    pi = 0.5 * pi + 0.5 / mdp.n_actions
    q_star = value_iteration(mdp)
    for leftover in ("uniform", "dummy"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = q_sft(mdp, pi, leftover=leftover)
        assert theorem_bounds(result.p, pi, q_star).lower_violations == 0
        # The proof's first step: y >= T y, by a loop over states and actions.
        y = result.target
        for state, action in np.ndindex(*y.shape):
            following = sum(mdp.P[state, action, s] * max(y[s]) for s in range(mdp.n_states))
            improved = min(1, mdp.R[state, action] + mdp.gamma * following)
            assert y[state, action] >= improved - 1e-9


def test_upper_bound_of_theorem_4_1_fails_for_eq_3():
    # A bandit needs no backup: y is the reward. Action 0 is worth nothing, yet receives the
    # leftover of action 1: p(0) = pi(1) (1 - y(1)) = 0.9 * 0.5.
    mdp = mdps.bandit(np.array([0.0, 0.5]))
    pi = np.array([[0.1, 0.9]])
    result = q_sft(mdp, pi)
    assert np.allclose(result.p, [[0.45, 0.55]])
    assert np.allclose(leaked_mass(pi, result.target), [[0.45, 0.1]])
    bounds = theorem_bounds(result.p, pi, mdp.R)
    assert bounds.upper_violations == 1.0 and bounds.lower_violations == 0.0
    assert np.allclose(max_bias(result.p, pi, mdp.R), 4.5 - 0.5)


@given(st.integers(2, 50), st.floats(0, 0.99), st.floats(0.001, 0.5), st.floats(1.001, 3), seeds)
@settings(max_examples=60, deadline=None)
def test_behavior_threshold_is_where_the_leak_crosses_the_tolerance(n, y, tolerance, factor, seed):
    threshold = behavior_threshold(n, y, tolerance)
    for pi_a, inside in ((threshold / factor, False), (min(threshold * factor, 0.999), True)):
        pi = np.full((1, n), (1 - pi_a) / (n - 1))
        pi[0, 0] = pi_a
        p = pi * y + leaked_mass(pi, np.full((1, n), y))
        error = (p / pi)[0, 0] - y
        if not inside:
            assert error > tolerance
        elif threshold * factor < 0.999:
            assert error <= tolerance


def test_a_target_that_does_not_settle_is_reported():
    rng = np.random.default_rng(1)
    mdp = TabularMDP(
        rng.dirichlet(np.full(20, 0.1), size=(20, 16)), rng.random((20, 16)) / 20, 0.95
    )
    pi = np.maximum(rng.dirichlet(np.full(16, 0.3), size=20), 1e-12)
    with pytest.warns(RuntimeWarning, match="did not settle"):
        result = q_sft(mdp, pi / pi.sum(axis=1, keepdims=True))
    assert not result.converged and result.residual > 1e-10


@given(sizes, seeds, st.floats(-50, 1e6))
@settings(max_examples=40, deadline=None)
def test_extracted_policy(size, seed, beta):
    rng = np.random.default_rng(seed)
    _, pi = small_mdp(size, seed)
    score = rng.random(pi.shape)
    policy = extract_policy(pi, np.where(pi > 0, score, np.nan), beta)
    assert np.allclose(policy.sum(axis=1), 1)
    assert (policy[pi == 0] == 0).all()
    assert np.allclose(extract_policy(pi, score, 0.0), pi)
    # Adding the same number to all scores of a state changes nothing.
    assert np.allclose(extract_policy(pi, score + 3, 1.0), extract_policy(pi, score, 1.0))


def test_extracted_policy_by_hand():
    policy = extract_policy(np.array([[0.5, 0.5]]), np.array([[0.0, np.log(3)]]), 1.0)
    assert np.allclose(policy, [[0.25, 0.75]])


def test_one_step_of_improvement_on_the_stitching_maze():
    maze = mdps.stitching_maze(gamma=0.95)
    q_star = value_iteration(maze.mdp)
    assert maze.mdp.initial @ q_star.max(axis=1) == pytest.approx(0.95**9)


def test_gridworld_slips_and_ends_as_drawn():
    maze = mdps.gridworld(("S.", "TG"), slip=0.2, gamma=0.9)
    start, right = maze.state_at(0, 0), 1
    # Right with 0.8; up bumps into the edge and stays; down falls into the trap and ends.
    assert np.allclose(maze.mdp.P[start, right], [0.1, 0.8])
    beside, down = maze.state_at(0, 1), 2
    assert maze.mdp.R[beside, down] == pytest.approx(0.8)
    assert np.allclose(maze.mdp.P[beside, down], [0.1, 0.1])
    with pytest.raises(ValueError, match=r"cell \(1, 0\)"):
        maze.state_at(1, 0)


def valid():
    return {"P": np.full((2, 3, 2), 0.5), "R": np.full((2, 3), 0.05), "gamma": 0.9}


def changed(name, index, value):
    arguments = valid()
    arguments[name][index] = value
    return arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (valid() | {"P": np.zeros((2, 3, 3))}, r"P must have shape"),
        (valid() | {"R": np.zeros((3, 2))}, r"R must have shape \(S, A\) = \(2, 3\)"),
        (valid() | {"gamma": 1.0}, r"gamma must be in \[0, 1\)"),
        (valid() | {"gamma": float("nan")}, r"gamma must be in"),
        (changed("P", (1, 2, 0), -0.1), r"state 1 by action 2 to state 0"),
        (changed("P", (1, 2, 0), np.nan), r"state 1 by action 2 to state 0"),
        (changed("P", (1, 2, 0), 0.6), r"P\[1, 2\] sums to 1.1.*state 1, action 2"),
        (changed("R", (0, 1), np.nan), r"state 0, action 1 is nan"),
        (changed("R", (0, 1), 1.5), r"rewards can total .* from state 0, action 1"),
        (changed("R", (0, 1), -0.9), r"rewards can total -.* from state 0, action 1"),
        (valid() | {"initial": np.array([0.5, 0.6])}, r"initial must sum to 1"),
        (valid() | {"initial": np.array([1.0])}, r"initial must have shape \(2,\)"),
    ],
)
def test_bad_mdps_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TabularMDP(**arguments)


def test_rewards_are_refused_exactly_when_a_return_leaves_the_unit_interval():
    P = np.ones((1, 1, 1))
    TabularMDP(P, np.full((1, 1), 0.1), 0.9)
    with pytest.raises(ValueError, match="rewards can total 1.01"):
        TabularMDP(P, np.full((1, 1), 0.101), 0.9)
    # A first cost that every continuation pays back is allowed.
    TabularMDP(np.array([[[0.0, 1.0]], [[0.0, 0.0]]]), np.array([[-0.4], [0.9]]), 0.9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"leftover": "dumy"}, "leftover must be one of"),
        ({"backup": "mean"}, "backup must be one of"),
        ({"backup": "support", "support": 2.0}, "support must be a probability"),
    ],
)
def test_bad_options_are_refused(options, message):
    mdp = mdps.chain(3)
    with pytest.raises(ValueError, match=message):
        q_sft(mdp, np.full((3, 2), 0.5), **options)


def test_probabilities_refuse_an_unknown_leftover():
    with pytest.raises(ValueError, match="leftover must be one of uniform, dummy, paired"):
        q_sft_probabilities(np.full((1, 2), 0.5), np.full((1, 2), 0.5), "pared")


@pytest.mark.parametrize(
    ("behavior", "message"),
    [
        (np.full((3, 3), 1 / 3), "behavior must have shape"),
        (np.full((3, 2), 0.4), "behavior must sum to 1 in state 0"),
        (np.array([[0.5, 0.5], [1.5, -0.5], [1, 0]]), r"behavior has -0.5 at index \(1, 1\)"),
    ],
)
def test_bad_behavior_is_refused(behavior, message):
    with pytest.raises(ValueError, match=message):
        q_sft(mdps.chain(3), behavior)


def test_bad_scores_are_refused():
    pi = np.array([[0.5, 0.5]])
    with pytest.raises(ValueError, match=r"score at \(state, action\) \(0, 1\) is nan"):
        extract_policy(pi, np.array([[0.0, np.nan]]), 1.0)
    with pytest.raises(ValueError, match="must be equal"):
        extract_policy(pi, np.zeros((2, 1)), 1.0)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (("S.G", ".."), "row 1 has 2 cells"),
        (("S.G", ".x."), "'x' at row 1, column 1"),
        (("...", "..G"), "no start"),
        (("S..", "..."), "no goal"),
        ((), "no cells"),
    ],
)
def test_bad_layouts_are_refused(layout, message):
    with pytest.raises(ValueError, match=message):
        mdps.gridworld(layout)


def test_two_thousand_states_to_eight_digits():
    # Sparse successors, so that the test's own generation is quick.
    rng = np.random.default_rng(0)
    P = np.zeros((2000, 16, 2000))
    successors = rng.integers(0, 2000, size=(2000, 16, 5))
    np.put_along_axis(P, successors, 0.2, axis=2)
    mdp = TabularMDP(P, rng.random((2000, 16)) * 0.05, 0.95)
    q_star = value_iteration(mdp, tol=1e-8)
    assert np.abs(bellman_backup(mdp, q_star.max(axis=1)) - q_star).max() < 1e-8
    behavior = np.full((2000, 16), 1 / 16)
    result = q_sft(mdp, behavior, leftover="dummy", tol=1e-8)
    assert np.abs(result.target - q_star).max() < 1e-8
    assert policy_return(mdp, behavior) < policy_return(mdp, extract_policy(behavior, q_star, 50.0))


@given(seeds, st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_random_mdps_pay_where_asked(seed, paying):
    dense = mdps.random_mdp(10, 5, seed=seed)
    sparse = mdps.random_mdp(10, 5, paying=paying, seed=seed)
    assert np.array_equal(dense.P, sparse.P)
    kept = sparse.R > 0
    assert kept.any() and np.array_equal(sparse.R[kept], dense.R[kept])
    assert abs(kept.mean() - paying) < 0.35


def test_random_mdps_refuse_a_share_above_one():
    with pytest.raises(ValueError, match="paying must be a probability"):
        mdps.random_mdp(paying=1.5)


def test_supported_actions_by_hand():
    pi = np.array([[0.5, 0.3, 0.2, 0.0], [0.25, 0.25, 0.25, 0.25]])
    assert np.array_equal(supported_actions(pi, 0.0), pi > 0)
    assert np.array_equal(supported_actions(pi, 0.3), [[True, True, False, False], [True] * 4])
    assert np.array_equal(supported_actions(pi, 0.9)[0], [True, False, False, False])


def test_bias_of_the_max_on_the_support():
    # As above: action 0 reads 4.5 and is worth 0; on the support only action 1 is left.
    mdp = mdps.bandit(np.array([0.0, 0.5]))
    pi = np.array([[0.1, 0.9]])
    assert np.allclose(max_bias(q_sft(mdp, pi).p, pi, mdp.R, support=0.5), 0.55 / 0.9 - 0.5)
