"""The two losses of Q-SFT and its Bellman target, on logits and on hidden states.

Q-SFT (Hong, Dragan, Levine, ICLR 2025) learns values as probabilities: a cross-entropy in which the
action taken weighs y, the Bellman target in [0, 1], and a leftover of 1 - y goes elsewhere. The two
forms of the loss differ only in where the leftover goes:

    leftover="uniform"   to the other V - 1 tokens in equal parts: Eq. 3, what the paper trains
    leftover=d           to one token d that is never an action, the dummy: section 4.1

Every function takes any number of leading dimensions, written (...), and logits (..., V) over a
vocabulary of V tokens. A mask, bool or 0/1, says which positions are action tokens. Positions
outside it are never read: their action may be -100, their target and logits NaN.

Checks of shapes and dtypes always run. Checks that must look at the data run when ``validate`` is
true; by default that is on the CPU, since they would make a GPU wait. Without them bad data gives
NaN, and an all-false mask gives 0.
"""

from __future__ import annotations

import difflib
import math
import operator
from typing import Literal, NamedTuple

import torch

__all__ = [
    "TargetStatistics",
    "bellman_target",
    "linear_cross_entropy",
    "linear_q_sft_loss",
    "linear_state_value",
    "linear_support",
    "linear_support_value",
    "q_sft_loss",
]

BACKUPS = ("max", "support", "behavior", "policy")
SCORES = ("p", "ratio")


class TargetStatistics(NamedTuple):
    """How much of a target lay outside [0, 1] before it was clamped."""

    share_below: float  # share of positions below 0
    share_above: float  # share of positions above 1
    largest_excess: float  # largest distance from [0, 1]


def q_sft_loss(
    logits: torch.Tensor,
    actions: torch.Tensor,
    target: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    leftover: Literal["uniform"] | int = "uniform",
    reduction: Literal["mean", "sum", "none"] = "mean",
    validate: bool | None = None,
) -> torch.Tensor:
    """Weighted cross-entropy of Q-SFT, for actions a with Bellman target y.

        uniform   -[ y log p(a|s) + (1 - y) / (V - 1) * sum_{b != a} log p(b|s) ]      (Eq. 3)
        dummy d   -[ y log p(a|s) + (1 - y) log p(d|s) ]                         (section 4.1)

    with p = softmax(logits). Gradients flow to the logits only: the target counts as a constant.

    Args:
        logits: (..., V), any floating dtype; computed in float32, or float64 if given that.
        actions: (...), integer, ids of the tokens taken.
        target: (...), y in [0, 1].
        mask: (...), true or 1 at action tokens; None for all of them.
        leftover: "uniform", or the dummy's token id.
        reduction: "mean" over the mask, "sum", or "none" for a (...) tensor, 0 outside the mask.
        validate: whether to check the data; None for on the CPU only.

    Returns:
        The loss, a scalar or (...), in the dtype it was computed in.

    Raises:
        TypeError: a dtype of the wrong kind.
        ValueError: shapes or devices that differ; an unknown option; and with validate: a target
            outside [0, 1], an id outside the vocabulary, an action that is the dummy, logits
            without a finite loss (for "uniform" -inf has none), or a mask that is all false.
    """
    _check_choice("reduction", reduction, ("mean", "sum", "none"))
    _check_tensors("logits", logits, actions=actions, target=target, mask=mask)
    dummy = _dummy_id(leftover, logits.shape[-1])
    if validate is None:
        validate = logits.device.type == "cpu"
    if validate:
        _check_data(actions, target, mask, logits.shape[-1], dummy)

    rows = _used_rows(mask, actions)
    used_logits = _select(logits.reshape(-1, logits.shape[-1]), rows)
    used_logits = used_logits.to(_compute_dtype(logits))
    columns, weights, spread = _weights(
        _select(actions.reshape(-1), rows).long(),
        _select(target.reshape(-1), rows).detach().to(used_logits.dtype),
        logits.shape[-1],
        dummy,
    )
    losses = _CrossEntropy.apply(used_logits, columns, weights, spread)
    if validate:
        remedy = "Logits must be finite; -inf is allowed with a dummy, at tokens without weight."
        _check_losses("logits", losses, used_logits, columns, rows, actions.shape, remedy)

    if reduction == "none":
        return _put_back(losses, rows, actions.shape)
    total = losses.sum()
    return total / max(len(losses), 1) if reduction == "mean" else total


@torch.no_grad()
def bellman_target(
    reward: torch.Tensor,
    done: torch.Tensor,
    next_q_logits: torch.Tensor,
    next_behavior_logits: torch.Tensor,
    *,
    gamma: float = 1.0,
    backup: Literal["max", "support", "behavior", "policy"] = "max",
    support: float = 1e-3,
    beta: float = 1.0,
    score: Literal["p", "ratio"] = "ratio",
    leftover: Literal["uniform"] | int = "uniform",
    clamp: bool = True,
    return_statistics: bool = False,
    validate: bool | None = None,
) -> torch.Tensor | tuple[torch.Tensor, TargetStatistics]:
    """Bellman target y = r + gamma * value(s'), or r alone where the episode ends.

    With p = softmax(next_q_logits), the target network, and pi = softmax(next_behavior_logits), the
    value of the next state is

        "max"        max_a p(a|s') / pi(a|s')                           (the paper's)
        "support"    the same over the actions with pi(a|s') >= support only (ours); where no
                     action has that much, the most likely one
        "behavior"   sum_a p(a|s') = sum_a pi(a|s') p(a|s') / pi(a|s')  (ours)
        "policy"     sum_a pi_hat(a|s') q(a|s') over the actions of "support", with
                     q = min(p / pi, 1) and pi_hat proportional to pi exp(beta * score): the value
                     of the policy that is extracted in the end  (ours)

    An action with behavior logit -inf takes no part in any of them, nor does the dummy, which is no
    action; pi is taken as it is, not normalised again. With a dummy, "behavior" is 1 - p(dummy|s'),
    the value of the behavior policy. With leftover="uniform" it means nothing: it is 1 in every
    state where no action is ruled out.

    Ratios are differences of log-probabilities, exponentiated last, since both probabilities
    underflow long before their ratio does. No gradient flows through the target.

    Args:
        reward: (...), of this step.
        done: (...), bool or 0/1, whether the episode ends here. The next logits may be anything
            there, NaN included.
        next_q_logits: (..., V) at the next action token, from the target network.
        next_behavior_logits: (..., V) at the same token, from the behavior policy.
        gamma: discount in [0, 1].
        backup: one of the above.
        support: least behavior probability in [0, 1] that "support" and "policy" trust.
        beta: sharpness of pi_hat for backup="policy"; 0 is the behavior policy.
        score: what pi_hat prefers, for backup="policy": "p" (the paper's) or the "ratio" q.
        leftover: "uniform", or the dummy's token id: the form of the loss p was trained with.
        clamp: whether to clamp the target to [0, 1].
        return_statistics: whether to return also how much of the target lay outside [0, 1].
        validate: whether to check the data; None for on the CPU only.

    Returns:
        The target (...), float32, or float64 if any logits are. With return_statistics a pair of it
        and its TargetStatistics.

    Raises:
        TypeError: a dtype of the wrong kind.
        ValueError: shapes or devices that differ; an unknown or out-of-range option; and with
            validate: a reward that is not finite, a done that is not 0 or 1, and, where the episode
            goes on, logits with NaN or +inf or with no finite value; the behavior policy's must
            have one at another token than the dummy.
    """
    _check_backup(backup, support, beta, score)
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must lie in [0, 1], not {gamma}.")
    _check_tensors("next_q_logits", next_q_logits, reward=reward, done=done)
    _check_tensors("next_behavior_logits", next_behavior_logits, reward=reward)
    vocabulary = next_q_logits.shape[-1]
    if next_behavior_logits.shape[-1] != vocabulary:
        raise ValueError(
            f"next_behavior_logits has a vocabulary of {next_behavior_logits.shape[-1]}, but "
            f"next_q_logits one of {vocabulary}: both must score the same tokens."
        )
    dummy = _dummy_id(leftover, vocabulary)
    if validate is None:
        validate = next_q_logits.device.type == "cpu"
    if validate:
        _refuse("reward", reward, ~reward.isfinite(), "not finite", "Mask them out beforehand.")
        _check_binary("done", done)
        actions = next_behavior_logits
        if dummy is not None:  # it is no action: another one must be possible
            actions = actions.clone()
            actions[..., dummy].masked_fill_(actions[..., dummy].isfinite(), -math.inf)
        for name, logits in (("next_q_logits", next_q_logits), ("next_behavior_logits", actions)):
            largest = logits.amax(-1)
            _refuse(
                name,
                largest,
                ~largest.isfinite() & ~done.bool(),
                "with NaN, +inf or nothing but -inf among the logits",
                "Each state needs at least one finite logit, and the behavior policy one at "
                "another token than the dummy. Shown is the largest one.",
            )

    dtype = torch.promote_types(_compute_dtype(next_q_logits), _compute_dtype(next_behavior_logits))
    ruled_out = _no_action(next_behavior_logits, dummy)
    log_p = next_q_logits.log_softmax(-1, dtype=dtype)
    log_pi = None
    if backup != "behavior":
        log_pi = next_behavior_logits.log_softmax(-1, dtype=dtype)
    value = _state_value(log_p, log_pi, ruled_out, backup, support, beta, score)
    value = value.clamp(max=torch.finfo(dtype).max)  # gamma = 0 meets no infinity

    reward = reward.to(dtype)
    target = torch.where(done.bool(), reward, reward + gamma * value)
    clamped = target.clamp(0, 1)
    if not return_statistics:
        return clamped if clamp else target
    excess = target - clamped
    positions = max(excess.numel(), 1)
    statistics = TargetStatistics(
        share_below=(excess < 0).sum().item() / positions,
        share_above=(excess > 0).sum().item() / positions,
        largest_excess=excess.abs().amax().item() if excess.numel() else 0.0,
    )
    return (clamped if clamp else target), statistics


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
    _check_tensors("hidden", hidden, actions=actions, target=target, mask=mask)
    _check_head(hidden, weight)
    vocabulary = len(weight)
    dummy = _dummy_id(leftover, vocabulary)
    if operator.index(chunk_size) < 1:
        raise ValueError(f"chunk_size must be at least 1, not {chunk_size}.")
    if validate is None:
        validate = hidden.device.type == "cpu"
    if validate:
        _check_data(actions, target, mask, vocabulary, dummy)

    rows = _used_rows(mask, actions)
    used_hidden = _select(hidden.reshape(-1, hidden.shape[-1]), rows)
    columns, weights, spread = _weights(
        _select(actions.reshape(-1), rows).long(),
        _select(target.reshape(-1), rows).detach().to(_compute_dtype(hidden)),
        vocabulary,
        dummy,
    )
    loss, losses = _LinearCrossEntropy.apply(
        used_hidden, weight, columns, weights, spread, chunk_size, torch.is_grad_enabled()
    )
    if validate and not loss.isfinite():
        _refuse("weight", weight, ~weight.isfinite(), "not finite", "Has training diverged?")
        remedy = "Hidden states, and their products with the weight, must be finite."
        _check_losses("hidden", losses, used_hidden, None, rows, actions.shape, remedy)
    return loss


def linear_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, actions: torch.Tensor, *, chunk_size: int = 256
) -> torch.Tensor:
    """Plain cross-entropy -log softmax(hidden @ weight.T)[action], by linear_q_sft_loss's kernel.

    Args:
        hidden: (N, H), floating.
        weight: (V, H), of the same dtype.
        actions: (N,), integer, ids of the tokens taken.
        chunk_size: tokens in a chunk, as in linear_q_sft_loss.

    Returns:
        The mean, a scalar, in float32, or float64 if given that; 0 where N is 0.

    Raises:
        TypeError, ValueError: shapes, dtypes or devices that do not fit.
    """
    _check_tensors("hidden", hidden, actions=actions)
    _check_head(hidden, weight)
    ones = torch.ones(len(hidden), 1, dtype=_compute_dtype(hidden), device=hidden.device)
    return _LinearCrossEntropy.apply(
        hidden, weight, actions.long()[:, None], ones, None, chunk_size, torch.is_grad_enabled()
    )[0]


@torch.no_grad()
def linear_state_value(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    behavior_hidden: torch.Tensor | None,
    behavior_weight: torch.Tensor | None,
    *,
    backup: Literal["max", "support", "behavior", "policy"],
    leftover: Literal["uniform"] | int,
    support: float = 1e-3,
    beta: float = 1.0,
    score: Literal["p", "ratio"] = "ratio",
    chunk_size: int = 256,
) -> torch.Tensor:
    """The value of states that bellman_target backs up, never holding more than a chunk of logits.

    Args:
        hidden: (N, H), last hidden states of the target network, floating.
        weight: (V, H), its head, of the same dtype.
        behavior_hidden: (N, H'), those of the behavior policy. None, and its weight too, will do
            for backup="behavior", which asks the behavior policy nothing.
        behavior_weight: (V, H'), its head.
        backup, leftover, support, beta, score: as in bellman_target.
        chunk_size: states in a chunk. Workspace is a few times chunk_size * V numbers.

    Returns:
        (N,), in float32, or float64 if given that; not clamped.

    Raises:
        TypeError, ValueError: shapes, dtypes or options that do not fit.
    """
    _check_backup(backup, support, beta, score)
    _check_head(hidden, weight)
    dummy = _dummy_id(leftover, len(weight))
    if backup != "behavior":
        if behavior_hidden is None or behavior_weight is None:
            raise ValueError(f'backup="{backup}" needs behavior_hidden and behavior_weight.')
        _check_head(behavior_hidden, behavior_weight)
    dtype = _compute_dtype(hidden)
    values = torch.empty(len(hidden), dtype=dtype, device=hidden.device)
    for start in range(0, len(hidden), chunk_size):
        chunk = slice(start, start + chunk_size)
        log_p = (hidden[chunk] @ weight.T).log_softmax(-1, dtype=dtype)
        log_pi = None
        if backup != "behavior":
            log_pi = (behavior_hidden[chunk] @ behavior_weight.T).log_softmax(-1, dtype=dtype)
        ruled_out = _no_action(log_p if log_pi is None else log_pi, dummy)
        values[chunk] = _state_value(log_p, log_pi, ruled_out, backup, support, beta, score)
    return values


@torch.no_grad()
def linear_support(
    behavior_hidden: torch.Tensor,
    behavior_weight: torch.Tensor,
    *,
    support: float,
    leftover: Literal["uniform"] | int,
    chunk_size: int = 256,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The actions that "support" and "policy" trust, likeliest first, and their log-probabilities.

    Args:
        behavior_hidden: (N, H), last hidden states of the behavior policy, floating.
        behavior_weight: (V, H), its head, of the same dtype.
        support: least behavior probability, in (0, 1].
        leftover: as in bellman_target; a dummy is no action.
        chunk_size: states in a chunk.

    Returns:
        ids (N, K) int64 and log_probs (N, K), float32, or float64 if given that. K is the largest
        number of trusted actions of any state, at most 1 / support; where a state has fewer,
        log_probs is -inf and the id means nothing.

    Raises:
        TypeError, ValueError: shapes, dtypes or options that do not fit.
    """
    _check_head(behavior_hidden, behavior_weight)
    if not 0 < support <= 1:
        raise ValueError(f"support must lie in (0, 1], not {support}: else all actions are trusted")
    dummy = _dummy_id(leftover, len(behavior_weight))
    dtype = _compute_dtype(behavior_hidden)
    most = min(int(1.01 / support) + 1, len(behavior_weight))
    chunks = []
    for hidden in behavior_hidden.split(chunk_size):
        log_pi = (hidden @ behavior_weight.T).log_softmax(-1, dtype=dtype)
        ruled_out = _no_action(log_pi, dummy)
        log_pi = log_pi.masked_fill(_outside_support(log_pi, ruled_out, support), -math.inf)
        chunks.append(log_pi.topk(most, dim=-1))
    log_probs = torch.cat([chunk.values for chunk in chunks])
    ids = torch.cat([chunk.indices for chunk in chunks])
    counts = (log_probs > -math.inf).sum(-1)
    needed = max(int(counts.max()), 1) if len(counts) else 1
    return ids[:, :needed].contiguous(), log_probs[:, :needed].contiguous()


@torch.no_grad()
def linear_support_value(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    support_ids: torch.Tensor,
    support_log_probs: torch.Tensor,
    *,
    backup: Literal["support", "policy"],
    beta: float = 1.0,
    score: Literal["p", "ratio"] = "ratio",
    chunk_size: int = 256,
) -> torch.Tensor:
    """``linear_state_value`` from what linear_support kept of the behavior policy: the same values.

    Args:
        hidden, weight: (N, H) and (V, H) of the target network, as in linear_state_value.
        support_ids: (N, K), integer, from linear_support.
        support_log_probs: (N, K), floating, -inf for no action.
        backup: "support" or "policy": the others look beyond the support.
        beta, score: as in bellman_target.
        chunk_size: states in a chunk.

    Returns:
        (N,), in float32, or float64 if given that; not clamped.

    Raises:
        TypeError, ValueError: shapes, dtypes or options that do not fit.
    """
    _check_choice("backup", backup, ("support", "policy"))
    _check_backup(backup, 0, beta, score)
    _check_head(hidden, weight)
    for name, kept in (("support_ids", support_ids), ("support_log_probs", support_log_probs)):
        if kept.ndim != 2 or len(kept) != len(hidden):
            raise ValueError(f"{name} has shape {tuple(kept.shape)}: expected ({len(hidden)}, K).")
    dtype = _compute_dtype(hidden)
    values = torch.empty(len(hidden), dtype=dtype, device=hidden.device)
    for start in range(0, len(hidden), chunk_size):
        chunk = slice(start, start + chunk_size)
        log_p = (hidden[chunk] @ weight.T).log_softmax(-1, dtype=dtype)
        log_p = log_p.gather(1, support_ids[chunk].long())
        log_pi = support_log_probs[chunk].to(dtype)
        ruled_out = log_pi == -math.inf
        values[chunk] = _state_value(log_p, log_pi, ruled_out, backup, 0, beta, score)
    return values


def _state_value(
    log_p: torch.Tensor,
    log_pi: torch.Tensor | None,
    ruled_out: torch.Tensor,
    backup: str,
    support: float,
    beta: float,
    score: str,
) -> torch.Tensor:
    """Value (...) of states whose actions have these log-probabilities (..., A).

    ruled_out marks what is no action. May overwrite log_p and ruled_out. "behavior" needs no
    log_pi.
    """
    if backup == "behavior":
        return log_p.masked_fill_(ruled_out, -math.inf).exp_().sum(-1)
    if backup != "max":
        ruled_out = _outside_support(log_pi, ruled_out, support)
    if backup == "policy" and score == "p":
        preference = log_p.exp()
    log_ratio = log_p.sub_(log_pi).masked_fill_(ruled_out, -math.inf)
    if backup != "policy":
        return log_ratio.amax(-1).exp()
    q = log_ratio.exp_().clamp_(max=1)
    if score == "ratio":
        preference = q
    policy = (log_pi + beta * preference).masked_fill_(ruled_out, -math.inf).softmax(-1)
    return (policy * q).sum(-1)


def _no_action(behavior_logits: torch.Tensor, dummy: int | None) -> torch.Tensor:
    """(..., V) bool: the tokens ruled out by a logit of -inf, and the dummy."""
    ruled_out = behavior_logits == -math.inf
    if dummy is not None:
        ruled_out[..., dummy] = True
    return ruled_out


def _outside_support(log_pi: torch.Tensor, ruled_out: torch.Tensor, support: float) -> torch.Tensor:
    """(..., A) bool: ruled out or less likely than support; but never the likeliest action."""
    # An action at the very edge is in, whichever way its probability was rounded.
    edge = math.log(support) - 1e-5 if support > 0 else -math.inf
    likeliest = log_pi.masked_fill(ruled_out, -math.inf).amax(-1, keepdim=True)
    return ruled_out | ((log_pi < edge) & (log_pi < likeliest))


class _CrossEntropy(torch.autograd.Function):
    """-sum_k weights_k log p(columns_k) - spread sum_v log p(v) for each row, p = softmax(logits).

    Shapes: logits (N, V), columns and weights (N, K), spread (N,) or None for 0, result (N,).
    A row's weights and V times its spread sum to 1, so the gradient is p - weights - spread. Left
    to itself, autograd makes more tensors of the logits' size on its way there and takes up to 1.6
    times as long.
    """

    @staticmethod
    def forward(ctx, logits, columns, weights, spread):
        log_p = logits.log_softmax(-1)
        # 0 log 0 counts as 0: a token ruled out by a logit of -inf costs nothing at weight 0.
        chosen = log_p.gather(1, columns).masked_fill_(weights == 0, 0)
        losses = -(weights * chosen).sum(-1)
        if spread is not None:
            losses -= spread * log_p.sum(-1)
        ctx.save_for_backward(log_p, columns, weights, spread)
        return losses

    @staticmethod
    def backward(ctx, upstream):
        _refuse_second_derivative("q_sft_loss")
        log_p, columns, weights, spread = ctx.saved_tensors
        gradient = log_p.exp()
        if spread is not None:
            gradient -= spread[:, None]
        gradient.scatter_add_(1, columns, -weights)
        gradient *= upstream[:, None]
        return gradient, None, None, None


class _LinearCrossEntropy(torch.autograd.Function):
    """The mean of _CrossEntropy's rows on hidden @ weight.T; also the rows, without a gradient."""

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
        _refuse_second_derivative("linear_q_sft_loss")
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


def _weights(
    actions: torch.Tensor, target: torch.Tensor, vocabulary: int, dummy: int | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The target distribution as columns (N, K), their weights (N, K) and a spread (N,) over all.

    The uniform form gives w1 = y - w2 to the action after w2 = (1 - y) / (V - 1) to every token.
    """
    if dummy is None:
        spread = (1 - target) / (vocabulary - 1)
        return actions[:, None], (target - spread)[:, None], spread
    columns = torch.stack([actions, torch.full_like(actions, dummy)], dim=1)
    return columns, torch.stack([target, 1 - target], dim=1), None


def _compute_dtype(tensor: torch.Tensor) -> torch.dtype:
    """The dtype itself, but float32 at least."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _used_rows(mask: torch.Tensor | None, actions: torch.Tensor) -> torch.Tensor | None:
    """Indices of the used positions in the flattened tensors; None for all of them."""
    if mask is None:
        return None
    rows = mask.reshape(-1).nonzero()[:, 0]
    return None if len(rows) == actions.numel() else rows


def _select(tensor: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    return tensor if rows is None else tensor.index_select(0, rows)


def _put_back(
    values: torch.Tensor, rows: torch.Tensor | None, shape: tuple[int, ...]
) -> torch.Tensor:
    """Undo _used_rows: values at their positions in a tensor of this shape, 0 elsewhere."""
    if rows is not None:
        values = values.new_zeros(math.prod(shape)).index_copy(0, rows, values)
    return values.reshape(shape)


def _refuse_second_derivative(name: str) -> None:
    if torch.is_grad_enabled():  # in a backward pass: with create_graph=True
        raise RuntimeError(
            f"{name} has no second derivative, so create_graph=True cannot be honored. Write the "
            "loss out with torch.log_softmax where you need one."
        )


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        nearest = difflib.get_close_matches(str(value), choices, n=1, cutoff=0)[0]
        listed = ", ".join(f'"{choice}"' for choice in choices)
        raise ValueError(f'{name} must be one of {listed}, not {value!r}. Nearest: "{nearest}".')


def _check_backup(backup: str, support: float, beta: float, score: str) -> None:
    _check_choice("backup", backup, BACKUPS)
    _check_choice("score", score, SCORES)
    if not 0 <= support <= 1:
        raise ValueError(f"support must lie in [0, 1], not {support}.")
    if not math.isfinite(beta):
        raise ValueError(f"beta must be finite, not {beta}.")


def _dummy_id(leftover: str | int, vocabulary: int) -> int | None:
    """The dummy's token id, or None for the uniform leftover."""
    if vocabulary < 2:
        raise ValueError(f"The vocabulary needs at least two tokens, not {vocabulary}.")
    if isinstance(leftover, str) and leftover == "uniform":
        return None
    if isinstance(leftover, (str, bool)) or not hasattr(leftover, "__index__"):
        raise ValueError(
            f'leftover must be "uniform" or the token id of the dummy, an int, not {leftover!r}. '
            'Nearest: "uniform".'
        )
    dummy = operator.index(leftover)
    if not 0 <= dummy < vocabulary:
        raise ValueError(
            f"leftover names token {dummy} as the dummy, but ids go from 0 to {vocabulary - 1}."
        )
    return dummy


def _check_tensors(name: str, scores: torch.Tensor, **others: torch.Tensor | None) -> None:
    """Scores (..., V or H) must be floating, and the others (...) on the same device."""
    if not isinstance(scores, torch.Tensor) or not scores.is_floating_point():
        raise TypeError(f"{name} must be a floating tensor, not {_kind(scores)}.")
    if scores.ndim == 0:
        raise ValueError(f"{name} must have a last dimension to score tokens; it has none.")
    for other_name, other in others.items():
        if other is None:
            continue
        if not isinstance(other, torch.Tensor) or other.is_complex():
            raise TypeError(f"{other_name} must be a tensor of real numbers, not {_kind(other)}.")
        if other_name == "actions" and (other.is_floating_point() or other.dtype == torch.bool):
            raise TypeError(f"actions must be an integer tensor of token ids, not {_kind(other)}.")
        if other.shape != scores.shape[:-1]:
            raise ValueError(
                f"{other_name} has shape {tuple(other.shape)}, but {name} has "
                f"{tuple(scores.shape)}: expected {tuple(scores.shape[:-1])}."
            )
        if other.device != scores.device:
            raise ValueError(
                f"{other_name} is on {other.device}, but {name} is on {scores.device}."
            )


def _check_head(hidden: torch.Tensor, weight: torch.Tensor) -> None:
    """Weight must be (V, H) with the H, dtype and device of hidden."""
    if not isinstance(weight, torch.Tensor) or weight.dtype != hidden.dtype:
        raise TypeError(f"weight must be a {hidden.dtype} tensor like hidden, not {_kind(weight)}.")
    if weight.ndim != 2 or weight.shape[1] != hidden.shape[-1]:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}, but hidden has {tuple(hidden.shape)}: "
            f"expected (V, {hidden.shape[-1]}), one row for each token."
        )
    if weight.device != hidden.device:
        raise ValueError(f"weight is on {weight.device}, but hidden is on {hidden.device}.")


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, torch.Tensor) else type(value).__name__


def _check_data(
    actions: torch.Tensor,
    target: torch.Tensor,
    mask: torch.Tensor | None,
    vocabulary: int,
    dummy: int | None,
) -> None:
    """The checks that must look at the data, at the used positions."""
    used = torch.ones_like(actions, dtype=torch.bool)
    if mask is not None:
        _check_binary("mask", mask)
        used = mask.bool()
    if not used.any():
        raise ValueError(
            f"mask uses none of the {used.numel()} positions, so there is nothing to learn from. "
            "Drop batches without action tokens."
        )
    _refuse(
        "actions",
        actions,
        used & ((actions < 0) | (actions >= vocabulary)),
        f"outside the vocabulary, ids 0 to {vocabulary - 1}",
        "Mask out positions that are not actions.",
    )
    if dummy is not None:
        _refuse(
            "actions",
            actions,
            used & (actions == dummy),
            "at the dummy token",
            "The dummy must be a token that is never an action: choose another id for leftover.",
        )
    _refuse(
        "target",
        target,
        used & ~((target >= 0) & (target <= 1)),
        "outside [0, 1]",
        "Scale rewards so that returns lie in [0, 1]; bellman_target clamps what is left.",
    )


def _check_binary(name: str, values: torch.Tensor) -> None:
    _refuse(name, values, (values != 0) & (values != 1), "neither 0 nor 1", "Use a bool tensor.")


def _check_losses(
    name: str,
    losses: torch.Tensor,
    scores: torch.Tensor,
    columns: torch.Tensor | None,
    rows: torch.Tensor | None,
    shape: tuple[int, ...],
    remedy: str,
) -> None:
    """Refuse losses (N,) that are not finite, as come of bad scores (N, V or H).

    Looking at the result saves a pass over all scores where all is well.
    """
    bad = ~losses.isfinite()
    if not bad.any():
        return
    first = bad.nonzero()[0, 0]
    entries = scores[first].tolist()
    weighed = [] if columns is None else columns[first].tolist()
    culprit = min(
        (i for i, entry in enumerate(entries) if not math.isfinite(entry)),
        key=lambda i: (entries[i] == -math.inf, i not in weighed),  # -inf may be all right
        default=None,
    )
    found = "every entry is finite" if culprit is None else f"entry {culprit} is {entries[culprit]}"
    _refuse(
        name,
        _put_back(losses, rows, shape),
        _put_back(bad, rows, shape),
        "without a finite loss",
        f"There, {found}. {remedy}",
    )


def _refuse(
    name: str, values: torch.Tensor, bad: torch.Tensor, complaint: str, remedy: str
) -> None:
    """Raise ValueError where bad, of the shape of values, is true anywhere."""
    if bad.any():
        first = tuple(bad.nonzero()[0].tolist())
        raise ValueError(
            f"{name}: {int(bad.sum())} of {bad.numel()} positions {complaint}; the first is at "
            f"{first}, {values[first].item()}. {remedy}"
        )
