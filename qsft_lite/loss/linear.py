"""The loss of Q-SFT and the values it backs up, from hidden states by chunks of tokens.

The same numbers as `q_sft` gives on ``hidden @ weight.T``, never holding all logits of a batch.
"""

from __future__ import annotations

from typing import Literal

import torch

from qsft_lite.loss import checks
from qsft_lite.loss.q_sft import BACKUPS, Backup, no_action, state_value, used_positions

__all__ = ["linear_cross_entropy", "linear_q_sft_loss", "linear_state_value"]


def linear_q_sft_loss(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    actions: torch.Tensor,
    target: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    leftover: Literal["uniform"] | int,
    chunk_size: int = 256,
    validate: bool | None = None,
) -> torch.Tensor:
    """``q_sft_loss(hidden @ weight.T, ...)``, never holding more than a chunk of the logits.

    With z = W h, lse = logsumexp(z), w2 = (1 - y) / (V - 1) and w1 = y - w2, Eq. 3 is

        lse - w1 z_a - w2 sum_v z_v,        sum_v z_v = h . (sum_v W_v),

    and the dummy form is lse - y z_a - (1 - y) z_d. So either costs a plain cross-entropy, 6HV
    floating-point operations a token with its gradients, and the uniform leftover one product of
    length H more. Gradients are worked out chunk by chunk along with the loss, which keeps the
    logits from being computed a second time. Masked tokens cost nothing.

    Args:
        hidden: (..., H), the last hidden states, floating.
        weight: (V, H), the head, of the same dtype. float16 and bfloat16 logits become float32 a
            chunk at a time, and the gradient of the weight is summed in float32.
        actions, target, mask, leftover, validate: as in q_sft_loss.
        chunk_size: tokens in a chunk. Workspace is chunk_size * V numbers. On two CPU cores with
            V = 50,257 and H = 768, 64 tokens take 1.6 and 256 take 1.1 times as long as 512.

    Returns:
        The loss, a scalar: the mean over the mask, in float32, or float64 if given that.

    Raises:
        TypeError, ValueError: as q_sft_loss, for hidden and weight in place of logits.
        RuntimeError: at a backward pass with create_graph=True; second derivatives need q_sft_loss.
    """
    checks.check_tensors("hidden", hidden, actions=actions, target=target, mask=mask)
    checks.check_head(hidden, weight)
    checks.check_chunk_size(chunk_size)
    if validate is None:
        validate = hidden.device.type == "cpu"
    used = used_positions(hidden, actions, target, mask, len(weight), leftover, validate)
    distribution = used.columns, used.weights, used.spread
    loss, losses = _LinearCrossEntropy.apply(
        used.scores, weight, *distribution, chunk_size, torch.is_grad_enabled()
    )
    if validate and not loss.isfinite():
        checks.refuse("weight", weight, ~weight.isfinite(), "not finite", "Has training diverged?")
        remedy = "Hidden states, and their products with the weight, must be finite."
        checks.check_losses("hidden", losses, used.rows, actions.shape, remedy)
    return loss


def linear_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, actions: torch.Tensor, *, chunk_size: int = 256
) -> torch.Tensor:
    """Plain cross-entropy -log softmax(hidden @ weight.T)[action], by linear_q_sft_loss's kernel.

    hidden (N, H) and weight (V, H) are floating and of one dtype, actions (N,) are the integer ids
    of the tokens taken. Returns the mean, a scalar, in float32, or float64 if given that; 0 where N
    is 0. TypeError or ValueError for shapes, dtypes or devices that do not fit.
    """
    checks.check_tensors("hidden", hidden, actions=actions)
    checks.check_head(hidden, weight)
    ones = torch.ones(len(hidden), 1, dtype=checks.compute_dtype(hidden), device=hidden.device)
    loss, _ = _LinearCrossEntropy.apply(
        hidden, weight, actions.long()[:, None], ones, None, chunk_size, torch.is_grad_enabled()
    )
    return loss


@torch.no_grad()
def linear_state_value(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    behavior_hidden: torch.Tensor | None,
    behavior_weight: torch.Tensor | None,
    *,
    backup: Backup,
    dummy: int | None,
    chunk_size: int = 256,
) -> torch.Tensor:
    """The value of states that bellman_target backs up, never holding more than a chunk of logits.

    Args:
        hidden, weight: (N, H) and (V, H), last hidden states and head of the target network, of one
            floating dtype; multiplied in float32 at least.
        behavior_hidden, behavior_weight: (N, H') and (V, H'), those of the behavior policy; None
            will do for a backup that asks it nothing.
        backup: of one of BACKUPS.
        dummy: the dummy's token id, or None for the uniform leftover.
        chunk_size: states in a chunk. Workspace is a few times chunk_size * V numbers.

    Returns:
        (N,), in float32, or float64 if given that; not clamped.

    Raises:
        TypeError, ValueError: shapes, dtypes or options that do not fit.
    """
    checks.check_choice("backup", backup.kind, BACKUPS)
    checks.check_chunk_size(chunk_size)
    checks.check_head(hidden, weight)
    if backup.asks_behavior:
        if behavior_hidden is None or behavior_weight is None:
            raise ValueError(f'backup="{backup.kind}" needs behavior_hidden and behavior_weight.')
        checks.check_head(behavior_hidden, behavior_weight)
    dtype = checks.compute_dtype(hidden)
    weight = weight.to(dtype)  # a logit rounded to bfloat16 may err by .06, and p by as much of it
    if backup.asks_behavior:
        behavior_weight = behavior_weight.to(dtype)
    values = torch.empty(len(hidden), dtype=dtype, device=hidden.device)
    for start in range(0, len(hidden), chunk_size):
        chunk = slice(start, start + chunk_size)
        log_p = (hidden[chunk].to(dtype) @ weight.T).log_softmax(-1)
        log_pi = None
        if backup.asks_behavior:
            log_pi = (behavior_hidden[chunk].to(dtype) @ behavior_weight.T).log_softmax(-1)
        ruled_out = no_action(log_p if log_pi is None else log_pi, dummy)
        values[chunk] = state_value(log_p, log_pi, ruled_out, backup)
    return values


class _LinearCrossEntropy(torch.autograd.Function):
    """The mean of -sum_k weights_k log p(columns_k) - spread sum_v log p(v) over rows.

    Here p = softmax(hidden @ weight.T). Also gives the rows, without a gradient.
    """

    @staticmethod
    def forward(ctx, hidden, weight, columns, weights, spread, chunk_size, grad_enabled):
        ctx.wanted = tuple(grad_enabled and needed for needed in ctx.needs_input_grad[:2])
        ctx.chunk_size = chunk_size
        ctx.save_for_backward(hidden, weight, columns, weights, spread)
        losses, *ctx.gradients = _linear_cross_entropy(
            hidden, weight, columns, weights, spread, chunk_size, *ctx.wanted
        )
        ctx.mark_non_differentiable(losses)
        return losses.sum() / max(len(losses), 1), losses

    @staticmethod
    def backward(ctx, upstream, _):
        if torch.is_grad_enabled():  # in a backward pass: with create_graph=True
            raise RuntimeError(
                "linear_q_sft_loss has no second derivative: use q_sft_loss on logits for one."
            )
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:  # a further pass over a retained graph: the first took them along
            _, *gradients = _linear_cross_entropy(*ctx.saved_tensors, ctx.chunk_size, *ctx.wanted)
        hidden, weight, *_ = ctx.saved_tensors
        scale = upstream / max(len(hidden), 1)
        grad_hidden, grad_weight = gradients
        if grad_hidden is not None:
            grad_hidden = grad_hidden.mul_(scale).to(hidden.dtype)
        if grad_weight is not None:
            grad_weight = grad_weight.mul_(scale).to(weight.dtype)
        return grad_hidden, grad_weight, None, None, None, None, None


def _linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    columns: torch.Tensor,
    weights: torch.Tensor,
    spread: torch.Tensor | None,
    chunk_size: int,
    want_grad_hidden: bool,
    want_grad_weight: bool,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Losses (N,) and, as wanted, the gradients (N, H) and (V, H) of their sum."""
    dtype = weights.dtype
    losses = torch.empty(len(hidden), dtype=dtype, device=hidden.device)
    grad_hidden = torch.empty_like(hidden, dtype=dtype) if want_grad_hidden else None
    grad_weight = torch.zeros_like(weight, dtype=dtype) if want_grad_weight else None
    if spread is not None:
        weight_sum = weight.sum(0, dtype=dtype)
        spread_hidden = torch.zeros_like(weight_sum)

    for start in range(0, len(hidden), chunk_size):
        chunk = slice(start, start + chunk_size)
        h = hidden[chunk]
        logits = (h @ weight.T).to(dtype)
        chosen = logits.gather(1, columns[chunk])
        # The softmax is worked out in place: the logits are the one large tensor there is.
        largest = logits.amax(-1, keepdim=True)
        p = logits.sub_(largest).exp_()
        total = p.sum(-1, keepdim=True)
        losses[chunk] = (largest + total.log())[:, 0] - (weights[chunk] * chosen).sum(-1)
        if spread is not None:
            losses[chunk] -= spread[chunk] * (h * weight_sum).sum(-1)

        # The gradient of z is p - weights - spread. Spread is the same for all tokens: it reaches
        # hidden as a multiple of weight_sum, and weight as one vector added to every row.
        if want_grad_hidden or want_grad_weight:
            grad_logits = p.div_(total).scatter_add_(1, columns[chunk], -weights[chunk]).to(h.dtype)
        if want_grad_hidden:
            grad_hidden[chunk] = grad_logits @ weight
            if spread is not None:
                grad_hidden[chunk] -= spread[chunk, None] * weight_sum
        if want_grad_weight:
            if h.dtype == dtype:
                grad_weight.addmm_(grad_logits.T, h)
            else:
                grad_weight += grad_logits.T @ h
            if spread is not None:
                spread_hidden += (spread[chunk, None] * h).sum(0)
        logits = p = grad_logits = None  # or they would live on beside the next chunk's
    if spread is not None and want_grad_weight:
        grad_weight -= spread_hidden
    return losses, grad_hidden, grad_weight
