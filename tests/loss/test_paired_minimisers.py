"""Descent on the paired loss lands on E[y | s, a], and with its state values on tabular.q_sft."""

import numpy as np
import pytest
import torch

from qsft_lite import tabular
from qsft_lite.loss import (
    Backup,
    linear_paired_q_sft_loss,
    linear_support,
    paired_q_sft_loss,
    paired_state_value,
    paired_values,
)
from qsft_lite.tabular.mdps import random_mdp, random_policy

OUTCOMES = (0.0, 0.3, 1.0)  # what y may be


def expected_loss(logits, behavior_logits, weights, prior):
    """The mean loss where (s, a) has outcome k in a share weights (S, A, K) of the data."""
    every_action = weights.shape[1]
    both = [
        z[:, None, None].expand(-1, every_action, len(OUTCOMES), -1)
        for z in (logits, behavior_logits)
    ]
    actions = torch.arange(every_action)[:, None].expand(weights.shape)
    target = torch.tensor(OUTCOMES).double().expand(weights.shape)
    losses = paired_q_sft_loss(*both, actions, target, prior=prior, reduction="none")
    return (weights * losses).sum()


def minimise(parameter: torch.Tensor, loss) -> None:
    optimizer = torch.optim.LBFGS(
        [parameter],
        max_iter=300,
        tolerance_grad=1e-8,  # the gradient is pi (q - E[y]), and pi at least 1e-3
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)


def problem(n_actions: int, concentration: float, states: int = 3):
    """pi (S, A) with an action that is never taken, and P(y = outcome | s, a) (S, A, K)."""
    rng = np.random.default_rng(n_actions)
    pi = rng.dirichlet(np.full(n_actions, concentration), size=states) + 2e-3
    pi[:, 0] = 0.0
    pi /= pi.sum(-1, keepdims=True)
    outcomes = rng.dirichlet(np.ones(len(OUTCOMES)), size=(states, n_actions))
    outcomes[1], outcomes[2, 1:] = (1, 0, 0), (0, 0, 1)  # extremes: a logit without bounds
    return torch.tensor(pi), torch.tensor(outcomes)


@pytest.mark.parametrize("prior", [0.5, 0.02, 0.9])
@pytest.mark.parametrize("concentration", [0.1, 100.0])  # of pi: rare actions, or none
@pytest.mark.parametrize("n_actions", [2, 50])
def test_descent_finds_the_mean_outcome_of_each_action(
    n_actions, concentration, prior, record_property
):
    pi, outcomes = problem(n_actions, concentration)
    behavior_logits = pi.clamp(min=1e-30).log() + torch.randn(len(pi), 1, dtype=torch.float64)
    logits = behavior_logits.clone().requires_grad_()  # it begins as the behavior policy
    minimise(
        logits,
        lambda: expected_loss(logits, behavior_logits, pi[..., None] * outcomes, prior),
    )
    q = paired_values(logits.detach(), behavior_logits, prior)
    seen = pi > 0
    error = (q - outcomes @ torch.tensor(OUTCOMES, dtype=torch.float64))[seen].abs().max().item()
    record_property("largest_error", float(error))
    print(f"largest error, {n_actions} actions: {error:.1e}")
    assert error < 1e-4
    never = torch.full_like(q[~seen], prior)
    torch.testing.assert_close(q[~seen], never, rtol=1e-12, atol=0)  # free logits share nothing

    # Theorem 4.1 for p = pi q, and the dummies' p(d_a) = pi (1 - q) sum to the one dummy's.
    p, dummies = pi * q, pi * (1 - q)
    assert (pi * q <= p).all() and (p <= q).all()
    torch.testing.assert_close(p.sum(-1) + dummies.sum(-1), torch.ones(3, dtype=torch.float64))


def test_descent_on_a_sample_finds_its_means():
    """Adam on a batch of recorded pairs: a share of successes of each action, whatever pi."""
    rng = np.random.default_rng(0)
    actions = torch.tensor(rng.choice(5, 4000, p=[0.6, 0.3, 0.05, 0.04, 0.01]))
    y = torch.tensor(rng.random(4000) < np.array([0.1, 0.5, 0.8, 0.3, 0.9])[actions]).double()
    behavior_logits = torch.tensor([3.0, 2, 0, 1, -1], dtype=torch.float64)
    logits = behavior_logits.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(1500):
        optimizer.zero_grad()
        every = logits.expand(4000, 5), behavior_logits.expand(4000, 5)
        paired_q_sft_loss(*every, actions, y, prior=0.2).backward()
        optimizer.step()
    means = torch.stack([y[actions == a].mean() for a in range(5)])
    found = paired_values(logits.detach(), behavior_logits, 0.2)
    torch.testing.assert_close(found, means, rtol=0, atol=1e-4)


@pytest.mark.parametrize("backup", ["max", "support", "behavior"])
def test_state_values_and_descent_by_turns_find_the_tabular_fixed_point(backup, record_property):
    """Of the dummy form, whose p / pi is the q of this one; from a head on one-hot states."""
    mdp = random_mdp(5, 3, gamma=0.5, seed=0)
    behavior = random_policy(mdp, concentration=5.0, seed=2)
    support = float(np.median(behavior))  # rules half of the actions out
    expected = tabular.q_sft(
        mdp, behavior, leftover="dummy", backup=backup, support=support, tol=1e-12
    )
    prior = 0.3
    hidden = torch.eye(5, dtype=torch.float64)
    pi_weight = torch.tensor(behavior).log().T.contiguous()
    weight = pi_weight.clone().requires_grad_()
    states, actions = torch.arange(15) // 3, torch.arange(15) % 3
    likely = linear_support(hidden, pi_weight, 0.0 if backup != "support" else support)

    target = np.zeros((5, 3))
    for _ in range(60):
        y = torch.tensor(target).reshape(-1)
        minimise(
            weight,
            lambda y=y: linear_paired_q_sft_loss(
                hidden[states], weight, pi_weight.T[states, actions], actions, y, prior=prior
            ),
        )
        options = Backup(backup, support, 1.0, "paired")
        values = paired_state_value(hidden, weight, likely, backup=options, prior=prior)
        previous, target = target, tabular.bellman_backup(mdp, values.numpy()).clip(0, 1)
        if np.abs(target - previous).max() < 1e-8:
            break
    q = paired_values(weight.detach().T, pi_weight.T, prior).numpy()
    errors = [np.abs(q - expected.target), np.abs(behavior * q - expected.p)]
    largest = max(error.max() for error in errors)
    record_property("largest_error", float(largest))
    print(f"largest error, {backup}: {largest:.1e}")
    assert largest < 1e-6
