"""Descent on the losses lands on the closed forms and, with the target, on tabular.q_sft."""

import numpy as np
import pytest
import torch

from qsft_lite import tabular
from qsft_lite.loss import bellman_target, q_sft_loss
from qsft_lite.tabular.mdps import random_mdp, random_policy

TOLERANCE = 1e-6


def minimise(logits: torch.Tensor, behavior: torch.Tensor, target: torch.Tensor, leftover) -> None:
    """Minimise, over the logits (S, V), the loss expected when actions follow behavior (S, A)."""
    states, n_actions = behavior.shape
    actions = torch.arange(n_actions).expand(states, n_actions)
    optimizer = torch.optim.LBFGS(
        [logits],
        max_iter=500,
        tolerance_grad=1e-9,  # the gradient is p less the minimiser: this is the error left
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimizer.zero_grad()
        every_action = logits[:, None].expand(states, n_actions, -1)
        losses = q_sft_loss(
            every_action, actions, target, leftover=leftover, reduction="none", validate=False
        )
        loss = (behavior * losses).sum()
        loss.backward()
        return loss

    optimizer.step(closure)


def new_logits(states: int, n_actions: int, leftover: str) -> tuple[torch.Tensor, str | int]:
    """Logits to train, with a last column more for the dummy, and the loss's leftover."""
    columns = n_actions + (leftover == "dummy")
    logits = torch.zeros(states, columns, dtype=torch.float64, requires_grad=True)
    return logits, n_actions if leftover == "dummy" else "uniform"


def trained(logits: torch.Tensor, n_actions: int) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities of the actions (S, A) and of the dummy (S,), 0 where there is none."""
    p = logits.detach().softmax(-1).numpy()
    return p[:, :n_actions], p[:, n_actions:].sum(axis=1)


def closed_form(behavior: np.ndarray, target: np.ndarray, leftover: str):
    """The minimisers, state by state and action by action."""
    n_actions = behavior.shape[1]
    p = np.zeros_like(behavior)
    for state, action in np.ndindex(*behavior.shape):
        p[state, action] = behavior[state, action] * target[state, action]
        if leftover == "uniform":
            for other in set(range(n_actions)) - {action}:
                spare = behavior[state, other] * (1 - target[state, other])
                p[state, action] += spare / (n_actions - 1)
    return p, 1 - p.sum(axis=1)


@pytest.mark.parametrize("leftover", ["uniform", "dummy"])
@pytest.mark.parametrize("n_actions", [2, 3, 10, 100])
def test_gradient_descent_finds_the_closed_form(leftover, n_actions, record_property):
    rng = np.random.default_rng(n_actions)
    behavior = rng.dirichlet(np.ones(n_actions), size=5)
    target = rng.random((5, n_actions))
    target[0], target[1] = 0, 1  # the extremes, where a probability of 0 is an infinite logit
    target[2, : n_actions // 2] = 0

    logits, loss_leftover = new_logits(5, n_actions, leftover)
    minimise(logits, torch.tensor(behavior), torch.tensor(target), loss_leftover)
    found = trained(logits, n_actions)
    by_hand = closed_form(behavior, target, leftover)
    packaged = tabular.q_sft_probabilities(behavior, target, leftover)
    errors = [np.abs(ours - theirs).max() for ours, theirs in zip(found, by_hand, strict=True)]
    errors += [np.abs(ours - theirs).max() for ours, theirs in zip(found, packaged, strict=True)]
    record_property("largest_error", float(max(errors)))
    print(f"largest error, {leftover}, {n_actions} actions: {max(errors):.1e}")
    assert max(errors) < TOLERANCE


@pytest.mark.parametrize(
    ("leftover", "backup"),
    [
        ("uniform", "max"),
        ("uniform", "support"),
        *(("dummy", b) for b in ("max", "support", "behavior")),
    ],
)
def test_target_and_descent_by_turns_find_the_tabular_fixed_point(
    leftover, backup, record_property
):
    mdp = random_mdp(5, 3, gamma=0.5, seed=0)
    # No action is rare here: where one is, Eq. 3 with a hard max goes round in circles.
    behavior = random_policy(mdp, concentration=5.0, seed=2)
    support = float(np.median(behavior))  # rules half of the actions out
    expected = tabular.q_sft(
        mdp, behavior, leftover=leftover, backup=backup, support=support, tol=1e-12
    )

    logits, loss_leftover = new_logits(5, 3, leftover)
    behavior_logits = torch.full_like(logits, -torch.inf, requires_grad=False)
    behavior_logits[:, :3] = torch.tensor(behavior).log()
    nothing = torch.zeros(5, dtype=torch.float64)
    target = np.zeros((5, 3))
    for _ in range(60):
        minimise(logits, torch.tensor(behavior), torch.tensor(target), loss_leftover)
        values = bellman_target(
            nothing,
            nothing,
            logits,
            behavior_logits,
            backup=backup,
            support=support,
            leftover=loss_leftover,
            clamp=False,
        )
        previous, target = target, tabular.bellman_backup(mdp, values.numpy()).clip(0, 1)
        if np.abs(target - previous).max() < 1e-7:
            break

    p, dummy = trained(logits, 3)
    errors = [
        np.abs(p - expected.p),
        np.abs(dummy - expected.dummy),
        np.abs(target - expected.target),
    ]
    largest = max(error.max() for error in errors)
    record_property("largest_error", float(largest))
    print(f"largest error, {leftover}, {backup}: {largest:.1e}")
    assert largest < TOLERANCE
