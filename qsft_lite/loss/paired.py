"""The paired form of Q-SFT (ours): every action has a dummy of its own.

The dummy form writes -[y log p(a) + (1 - y) log p(d)] with one dummy d for all actions. Here action
a has its own one, d_a, with p(a) = pi(a) q(a) and p(d_a) = pi(a) (1 - q(a)):

    -[y log p(a) + (1 - y) log p(d_a)] = -log pi(a) - [y log q(a) + (1 - y) log(1 - q(a))]

The first term is a constant, once the behavior policy pi is trained and frozen. The value q needs
no new head: it is the logistic function of what training has added to the action's logit,

    q(a|s) = sigmoid(z_theta(a|s) - z_phi(a|s) + c),        c = logit(prior),

with z_theta and z_phi the raw logits of the network that learns and of the behavior policy that it
began as. So q begins as the prior everywhere, lies in (0, 1) whatever happens, and comes to
E[y | s, a], whatever pi. Only single logits are read: a head costs O(H) a token and not O(H V).
Log-ratios of fine-tuned and reference models as values are known from DPO (Rafailov et al., 2023),
and the logistic loss on a value in [0, 1] from QT-Opt (Kalashnikov et al., 2018).
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, embedding

from qsft_lite.loss import checks
from qsft_lite.loss.q_sft import BACKUPS, Backup, unsupported

__all__ = [
    "Support",
    "linear_paired_q_sft_loss",
    "linear_support",
    "paired_q_sft_loss",
    "paired_state_value",
    "paired_values",
    "single_logits",
]


def paired_q_sft_loss(
    logits: torch.Tensor,
    behavior_logits: torch.Tensor,
    actions: torch.Tensor,
    target: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    prior: float = 0.5,
    reduction: Literal["mean", "sum", "none"] = "mean",
    validate: bool | None = None,
) -> torch.Tensor:
    """-[y log q + (1 - y) log(1 - q)] at the action taken, q = sigmoid(z_theta - z_phi + c).

    Gradients flow to the logits only: the behavior policy and the target count as constants.

    Args:
        logits: (..., V), z_theta, any floating dtype; computed in float32, or float64 if any are.
        behavior_logits: (..., V), z_phi, likewise.
        actions: (...), integer, ids of the tokens taken.
        target: (...), y in [0, 1].
        mask: (...), true or 1 at action tokens; None for all of them. Others are never read.
        prior: of q where both networks agree, in (0, 1): c is its logit.
        reduction: "mean" over the mask, "sum", or "none" for a (...) tensor, 0 outside the mask.
        validate: whether to check the data; None for on the CPU only.

    Returns:
        The loss, a scalar or (...), in the dtype it was computed in.

    Raises:
        TypeError: a dtype of the wrong kind.
        ValueError: shapes or devices that differ; a prior outside (0, 1); and with validate: a
            target outside [0, 1], an id outside the vocabulary, logits of an action that are not
            finite, or a mask that is all false.
    """
    checks.check_choice("reduction", reduction, ("mean", "sum", "none"))
    checks.check_tensors("logits", logits, actions=actions, target=target, mask=mask)
    checks.check_tensors("behavior_logits", behavior_logits, actions=actions)
    if behavior_logits.shape != logits.shape:
        raise ValueError(
            f"behavior_logits has shape {tuple(behavior_logits.shape)}, but logits has "
            f"{tuple(logits.shape)}: both must score the same tokens."
        )
    if validate is None:
        validate = logits.device.type == "cpu"
    if validate:
        checks.check_data(actions, target, mask, logits.shape[-1], None)
    rows = _rows(actions, mask)

    def at_actions(scores: torch.Tensor) -> torch.Tensor:
        scores = scores.reshape(-1, scores.shape[-1])
        taken = actions.reshape(-1).long()
        if rows is not None:
            scores, taken = scores.index_select(0, rows), taken.index_select(0, rows)
        return scores.gather(1, taken[:, None])[:, 0]

    losses = _losses(
        at_actions(logits), at_actions(behavior_logits.detach()), _taken(target, rows), prior
    )
    if validate:
        remedy = "Both logits of an action must be finite."
        checks.check_losses("logits", losses, rows, actions.shape, remedy)
    if reduction == "none":
        return checks.put_back(losses, rows, actions.shape)
    total = losses.sum()
    return total / max(len(losses), 1) if reduction == "mean" else total


def linear_paired_q_sft_loss(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    behavior_logits_taken: torch.Tensor,
    actions: torch.Tensor,
    target: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    prior: float = 0.5,
    validate: bool | None = None,
) -> torch.Tensor:
    """``paired_q_sft_loss(hidden @ weight.T, ...)``, from single logits: no (..., V) tensor.

    A token costs O(H), and only the rows of the weight that were taken get a gradient.

    Args:
        hidden: (..., H), the last hidden states, floating.
        weight: (V, H), the head, of the same dtype. Products are added up in float32.
        behavior_logits_taken: (...), z_phi at the actions taken, floating; a constant.
        actions, target, mask, prior, validate: as in paired_q_sft_loss.

    Returns:
        The loss, a scalar: the mean over the mask, in float32, or float64 if given that; 0 for an
        empty mask that was not checked.

    Raises:
        TypeError, ValueError: as paired_q_sft_loss, for hidden and weight in place of logits.
    """
    checks.check_tensors("hidden", hidden, actions=actions, target=target, mask=mask)
    checks.check_floating("behavior_logits_taken", behavior_logits_taken)
    checks.check_tensors("hidden", hidden, behavior_logits_taken=behavior_logits_taken)
    checks.check_head(hidden, weight)
    if validate is None:
        validate = hidden.device.type == "cpu"
    if validate:
        checks.check_data(actions, target, mask, len(weight), None)
    rows = _rows(actions, mask)
    hidden = hidden.reshape(-1, hidden.shape[-1])
    if rows is not None:
        hidden = hidden.index_select(0, rows)
    logits = single_logits(hidden, weight, _taken(actions, rows).long())
    reference = _taken(behavior_logits_taken.detach(), rows)
    losses = _losses(logits, reference, _taken(target, rows), prior)
    if validate:
        remedy = "Hidden states, weight and behavior logits must be finite."
        checks.check_losses("hidden", losses, rows, actions.shape, remedy)
    return losses.sum() / max(len(losses), 1)


def single_logits(hidden: torch.Tensor, weight: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Logits of single tokens, hidden . weight[id]: (N, H), (V, H), (N,) -> (N,), float32 at least.

    The gradient of the weight is 0 but for the rows taken.
    """
    dtype = checks.compute_dtype(hidden)
    # A row is read once, so that the gradients of a token taken often add up in float32.
    taken, place = ids.unique(return_inverse=True)
    rows = embedding(taken, weight).to(dtype)
    return (hidden.to(dtype) * embedding(place, rows)).sum(-1)


def prior_logit(prior: float) -> float:
    """c = logit(prior). ValueError for a prior outside (0, 1)."""
    if isinstance(prior, str) or not 0 < prior < 1:
        raise ValueError(f"prior must lie strictly between 0 and 1, not {prior!r}.")
    return math.log(prior) - math.log1p(-prior)


def paired_values(
    logits: torch.Tensor, behavior_logits: torch.Tensor, prior: float = 0.5
) -> torch.Tensor:
    """q = sigmoid(z_theta - z_phi + c) of logits of one shape: in float32, or float64 if any are.

    A token that both rule out (-inf) has no value: NaN.
    """
    dtype = torch.promote_types(checks.compute_dtype(logits), checks.compute_dtype(behavior_logits))
    return (logits.to(dtype) - behavior_logits.to(dtype) + prior_logit(prior)).sigmoid()


class Support(NamedTuple):
    """The likely actions of N states, in the order of pi; K is the most that a state has.

    ids (N, K) int64. behavior_logits (N, K): z_phi. log_pi (N, K): -inf where a state has fewer.
    """

    ids: torch.Tensor
    behavior_logits: torch.Tensor
    log_pi: torch.Tensor


@torch.no_grad()
def linear_support(
    hidden: torch.Tensor, weight: torch.Tensor, support: float, *, chunk_size: int = 256
) -> Support:
    """The actions with pi(a|s) >= support, and the likeliest, by the behavior policy's own head.

    hidden (N, H) and weight (V, H), of one floating dtype, are multiplied in float32 at least.
    support in [0, 1], 0 for all actions. chunk_size: states at a time, of V numbers each.
    ValueError for a support outside it, or a chunk_size below 1.
    """
    Backup("support", support)  # refuses what is no support
    checks.check_chunk_size(chunk_size)
    dtype = checks.compute_dtype(hidden)
    weight = weight.to(dtype)  # a logit rounded to bfloat16 may err by .06
    parts = []
    for start in range(0, len(hidden), chunk_size):
        logits = hidden[start : start + chunk_size].to(dtype) @ weight.T
        log_pi = logits.log_softmax(-1)
        outside = unsupported(log_pi, log_pi == -math.inf, support)
        log_pi = log_pi.masked_fill_(outside, -math.inf)
        most = int((~outside).sum(-1).max())
        log_pi, ids = log_pi.topk(most, dim=-1)
        parts.append(Support(ids, logits.gather(1, ids), log_pi))
    if not parts:
        empty = hidden.new_zeros(0, 1, dtype=dtype)
        return Support(empty.long(), empty, empty)
    most = max(part.ids.shape[1] for part in parts)

    def joined(columns: tuple[torch.Tensor, ...], padding: float) -> torch.Tensor:
        pad = torch.nn.functional.pad
        return torch.cat([pad(one, (0, most - one.shape[1]), value=padding) for one in columns])

    ids, logits, log_pi = zip(*parts, strict=True)
    return Support(joined(ids, 0), joined(logits, 0.0), joined(log_pi, -math.inf))


@torch.no_grad()
def paired_state_value(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    support: Support,
    *,
    backup: Backup,
    prior: float,
    chunk_size: int = 256,
) -> torch.Tensor:
    """The value (N,) of states, from q at the actions of their support.

        "support", "max"    max q           over the support; that of "max" is all actions
        "behavior"          sum_a pi q / sum_a pi
        "policy"            sum_a pi_hat q,     pi_hat proportional to pi exp(beta q)

    hidden (N, H) and weight (V, H): of the target network, multiplied in float32 at least.
    chunk_size: states at a time, which hold about chunk_size * K * H numbers, or chunk_size * V
    where that is less. ValueError for another backup, or a chunk_size below 1.
    """
    checks.check_choice("backup", backup.kind, BACKUPS)
    checks.check_chunk_size(chunk_size)
    values = torch.empty(len(hidden), dtype=checks.compute_dtype(hidden), device=hidden.device)
    for start in range(0, len(hidden), chunk_size):
        chunk = slice(start, start + chunk_size)
        ids, behavior_logits, log_pi = (column[chunk] for column in support)
        logits = _logits_at(hidden[chunk], weight, ids)
        q = paired_values(logits, behavior_logits, prior)
        if backup.kind in ("support", "max"):
            values[chunk] = q.masked_fill(log_pi == -math.inf, -math.inf).amax(-1)
        else:
            beta = backup.beta if backup.kind == "policy" else 0.0
            values[chunk] = ((log_pi + beta * q).softmax(-1) * q).sum(-1)
    return values


def _logits_at(hidden: torch.Tensor, weight: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """(N, H), (V, H), (N, K) -> (N, K): by all logits or K rows of H, whichever holds less."""
    hidden = hidden.to(checks.compute_dtype(hidden))
    if ids.shape[1] * hidden.shape[1] >= len(weight):
        return (hidden @ weight.to(hidden.dtype).T).gather(1, ids)
    return torch.einsum("nh,nkh->nk", hidden, weight[ids].to(hidden.dtype))


def _losses(
    logits: torch.Tensor, behavior_logits: torch.Tensor, target: torch.Tensor, prior: float
) -> torch.Tensor:
    """The loss of each action (N,), from its single logits and y."""
    dtype = torch.promote_types(checks.compute_dtype(logits), checks.compute_dtype(behavior_logits))
    added = logits.to(dtype) - behavior_logits.to(dtype) + prior_logit(prior)
    y = target.detach().to(dtype)
    return binary_cross_entropy_with_logits(added, y, reduction="none")


def _rows(actions: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor | None:
    """Which of the flattened positions count; None for all of them."""
    if mask is None or bool(mask.all()):
        return None
    return mask.reshape(-1).nonzero()[:, 0]


def _taken(values: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    values = values.reshape(-1)
    return values if rows is None else values.index_select(0, rows)
