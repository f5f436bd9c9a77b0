"""The losses of ILQL and CQL on the values of single actions: one function per method.

N actions (N,) int64, ids of the tokens taken; V tokens in the vocabulary; two Q heads. Rewards (N,)
and values are normalised returns in [0, 1]; discount (N,) is the factor of the next state's value,
0 where the episode ends. Targets are constants: no gradient flows through them. Each function
returns one loss per action, (N,), so that the caller decides what to average over.
"""

from __future__ import annotations

import torch

__all__ = ["cql_losses", "expectile_losses", "ilql_losses"]


def ilql_losses(
    q: torch.Tensor,
    value: torch.Tensor,
    target_q: torch.Tensor,
    next_value: torch.Tensor,
    actions: torch.Tensor,
    reward: torch.Tensor,
    discount: torch.Tensor,
    *,
    expectile: float,
    conservatism: float,
) -> torch.Tensor:
    """Implicit language Q-learning (Snell et al., 2023, arXiv 2206.11871, section 4).

        sum_j 1/2 (Q_j(s,a) - r - gamma V(s'))^2
        + |tau - 1(Q_hat(s,a) < V(s))| 1/2 (V(s) - Q_hat(s,a))^2,     Q_hat = min_j of the targets
        + c sum_j -log softmax(Q_j(s,.))(a)

    Args:
        q: (2, N, V), the Q heads at the state.
        value: (N,), the V head at the state.
        target_q: (2, N), the target Q heads at the state and the action taken.
        next_value: (N,), the V head at the next state; anything where discount is 0.
        expectile: tau in (0, 1); .5 is the mean over the data's actions, 1 their maximum.
        conservatism: c >= 0. ValueError for one out of range, or an expectile.
    """
    if not 0 < expectile < 1:
        raise ValueError(f"expectile must lie strictly between 0 and 1, got {expectile}")
    target = reward + _discounted(next_value, discount)
    value_losses = expectile_losses(value, target_q.amin(0), expectile)
    return _q_losses(q, actions, target, conservatism) + value_losses


def cql_losses(
    q: torch.Tensor,
    next_target_q: torch.Tensor,
    actions: torch.Tensor,
    reward: torch.Tensor,
    discount: torch.Tensor,
    *,
    conservatism: float,
) -> torch.Tensor:
    """Conservative Q-learning (Kumar et al., 2020, arXiv 2006.04779, Eq. 4 with a max backup).

        sum_j 1/2 (Q_j(s,a) - r - gamma max_b min_j Q_hat_j(s',b))^2
        + alpha sum_j (logsumexp Q_j(s,.) - Q_j(s,a))

    Args:
        q: (2, N, V), the Q heads at the state; -inf at tokens that are no actions.
        next_target_q: (2, N, V), the target heads at the next state, likewise; anything where
            discount is 0.
        conservatism: alpha >= 0, else ValueError.
    """
    target = reward + _discounted(next_target_q.amin(0).amax(-1), discount)
    return _q_losses(q, actions, target, conservatism)


def expectile_losses(value: torch.Tensor, sample: torch.Tensor, expectile: float) -> torch.Tensor:
    """|tau - 1(x < v)| 1/2 (v - x)^2, least at the tau-expectile of x; no gradient to x.  (N,)."""
    difference = sample.detach() - value
    weight = (expectile - (difference < 0).to(difference.dtype)).abs()
    return 0.5 * weight * difference.square()


def _discounted(next_value: torch.Tensor, discount: torch.Tensor) -> torch.Tensor:
    """gamma * next_value as a constant, and 0 where the episode ends whatever stands there."""
    return torch.where(discount > 0, discount * next_value.detach(), 0.0)


def _q_losses(
    q: torch.Tensor, actions: torch.Tensor, target: torch.Tensor, conservatism: float
) -> torch.Tensor:
    """Squared error of both heads at the actions taken, and the conservative cross-entropy."""
    if not conservatism >= 0:
        raise ValueError(f"conservatism must not be negative, got {conservatism}")
    taken = q.gather(-1, actions.expand(len(q), -1)[..., None])[..., 0]
    errors = 0.5 * (taken - target.detach()).square()
    surprise = q.logsumexp(-1) - taken
    return (errors + conservatism * surprise).sum(0)
