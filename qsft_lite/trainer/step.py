"""A training step of either stage, whole: from a batch of packed rows to the loss.

The logits that choose token i sit at position i - 1. So with an action at token i and the next one
at token j, the state is position i - 1 and the next state position j - 1. Hidden states are
computed once for each model, and heads are applied at these positions only. Positions count through
the flattened batch (B * L,).
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from qsft_lite.data.packing import BEHAVIOR, PACKED, SUPPORT
from qsft_lite.loss import Backup, linear_cross_entropy, linear_q_sft_loss, linear_state_value
from qsft_lite.models import final_hidden, output_head

__all__ = ["behavior_step", "bellman_targets", "q_sft_step"]

Batch = dict[str, torch.Tensor]


def q_sft_step(
    q: PreTrainedModel,
    target: PreTrainedModel,
    behavior: PreTrainedModel,
    batch: Batch,
    *,
    backup: Backup,
    dummy: int | None,
    clamp: bool = True,
    train_behavior: bool = False,
    statistics: bool = False,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of one batch of packed rows, and what to log about it.

    Args:
        q: p_theta, the model that is trained.
        target: p_bar, its moving average.
        behavior: pi_phi; only run where the backup, the statistics or its own training need it.
        batch: packed rows, as data.collate gives them.
        backup: what the targets are.
        dummy: the dummy's token id, or None for the uniform leftover.
        clamp: whether to clamp targets to [0, 1]; otherwise one outside is an error.
        train_behavior: whether to add the cross-entropy of pi_phi to the loss.
        statistics: whether to work out the statistics, which costs another head.

    Returns:
        The loss, a scalar, mean over the batch's action tokens, 0 where there are none. And the
        statistics, scalars by name, see ``_statistics``; none without action tokens.

    Raises:
        FloatingPointError: with clamp=False, a target outside [0, 1].
    """
    actions = action_positions(batch)
    tokens = batch["input_ids"].reshape(-1)[actions]

    behavior_hidden = None
    if train_behavior or backup.asks_behavior:
        with torch.set_grad_enabled(train_behavior and torch.is_grad_enabled()):
            behavior_hidden = token_states(behavior, batch)
    if backup.kind == "random":
        raw_target = torch.rand(len(actions), device=actions.device)
    elif backup.kind == "returns":
        raw_target = batch["return_to_go"].reshape(-1)[actions].float()
    else:
        with torch.no_grad():
            hidden = token_states(target, batch)
        head, pi_head = output_head(target).weight, output_head(behavior).weight
        raw_target = bellman_targets(
            hidden, head, behavior_hidden, pi_head, batch, actions, backup=backup, dummy=dummy
        )
    y = in_range(raw_target, clamp)

    q_hidden = token_states(q, batch)
    hidden, weight = _loss_inputs(q_hidden[actions - 1], q)
    leftover = "uniform" if dummy is None else dummy
    with head_precision(hidden):
        loss = linear_q_sft_loss(hidden, weight, tokens, y, leftover=leftover, validate=False)
    if train_behavior:
        loss = loss + behavior_step(behavior, batch, behavior_hidden)
    if not statistics or not len(actions):
        return loss, {}

    with torch.no_grad():
        if behavior_hidden is None:
            behavior_hidden = token_states(behavior, batch)
        of_p = q_hidden[actions - 1], output_head(q).weight
        log_p = action_log_probs(*of_p, tokens)
        of_pi = behavior_hidden[actions - 1], output_head(behavior).weight
        log_pi = action_log_probs(*of_pi, tokens)
        log_dummy = None
        if dummy is not None:
            log_dummy = action_log_probs(*of_p, torch.full_like(tokens, dummy))
        returns = batch["return_to_go"].reshape(-1)[actions]
        return loss, _statistics(raw_target, log_p, log_pi, log_dummy, returns)


def in_range(raw_target: torch.Tensor, clamp: bool) -> torch.Tensor:
    """Targets in [0, 1]. FloatingPointError for one outside that must not be clamped."""
    y = raw_target.clamp(0, 1)
    if not clamp and bool((y != raw_target).any()):
        raise FloatingPointError(
            f"targets reach from {raw_target.min():.3g} to {raw_target.max():.3g}, outside [0, 1]: "
            "check the range that rewards were scaled by, raise support, or set clamp=True"
        )
    return y


def behavior_step(
    behavior: PreTrainedModel, batch: Batch, hidden: torch.Tensor | None = None
) -> torch.Tensor:
    """Stage one: cross-entropy of pi_phi, mean over the batch's action tokens; a scalar.

    hidden: its token_states, where they are known.
    """
    actions = action_positions(batch)
    tokens = batch["input_ids"].reshape(-1)[actions]
    hidden = token_states(behavior, batch) if hidden is None else hidden
    hidden, weight = _loss_inputs(hidden[actions - 1], behavior)
    with head_precision(hidden):
        return linear_cross_entropy(hidden, weight, tokens)


def _loss_inputs(hidden: torch.Tensor, model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states and head in the precision of training: bfloat16 where that is switched on."""
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    return hidden.to(dtype), output_head(model).weight.to(dtype)


def _statistics(
    raw_target: torch.Tensor,
    log_p: torch.Tensor,
    log_pi: torch.Tensor,
    log_dummy: torch.Tensor | None,
    returns: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """What to log about the action tokens of a batch; all tensors (N,).

    target_mean, target_std: of y. clamped: share of y outside [0, 1] before clamping.
    ratio_05, ratio_50, ratio_95: quantiles of p / pi at the actions taken.
    value_bias, value_correlation: of the learned value against the return that followed, where the
        value is V = 1 - p(dummy) with a dummy and Q = min(p / pi, 1) without.
    dummy: mean p(dummy), with a dummy only.
    """
    ratio = (log_p - log_pi.to(log_p.dtype)).exp()
    value = ratio.clamp(max=1) if log_dummy is None else 1 - log_dummy.exp()
    found = of_targets(raw_target, value, returns) | quantiles("ratio", ratio)
    if log_dummy is not None:
        found["dummy"] = log_dummy.exp().mean()
    return found


def of_targets(
    raw_target: torch.Tensor, value: torch.Tensor, returns: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Mean and spread of y, its clamped share, and values beside the returns that followed."""
    y = raw_target.clamp(0, 1)
    spread = value.std(correction=0) * returns.std(correction=0)
    covariance = ((value - value.mean()) * (returns - returns.mean())).mean()
    return {
        "target_mean": y.mean(),
        "target_std": y.std(correction=0),
        "clamped": (y != raw_target).float().mean(),
        "value_bias": (value - returns).mean(),
        "value_correlation": torch.where(spread > 0, covariance / spread, 0),
    }


def quantiles(name: str, values: torch.Tensor) -> dict[str, torch.Tensor]:
    """The 5 %, 50 % and 95 % quantiles of values (N,), as name_05 and so on."""
    shares = torch.tensor([0.05, 0.5, 0.95], device=values.device, dtype=values.dtype)
    return dict(
        zip((f"{name}_05", f"{name}_50", f"{name}_95"), values.quantile(shares), strict=True)
    )


# Parts of a step


def token_states(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Hidden states (B * L, H) that the model's head reads, each episode by itself.

    Columns of the batch that are none of packed rows, such as pixel_values, go to the model as they
    are, if it takes them.
    """
    known = {*PACKED.names, *BEHAVIOR, *SUPPORT}
    further = {name: column for name, column in batch.items() if name not in known}
    place = (batch["input_ids"], batch["position_ids"], batch["segment_ids"])
    return final_hidden(model, *place, **further).flatten(0, 1)


def action_positions(batch: Batch) -> torch.Tensor:
    """Positions (N,) of the action tokens, int64, in order."""
    return batch["action_mask"].reshape(-1).nonzero()[:, 0]


def next_states(batch: Batch, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which of the actions have a next state (N,) bool, and the positions (M,) of those states."""
    next_action = batch["next_action"].reshape(-1)[actions]  # an index within the row
    has_next = next_action >= 0
    length = batch["input_ids"].shape[1]
    row_start = actions // length * length
    return has_next, (row_start + next_action - 1)[has_next]


@torch.no_grad()
def bellman_targets(
    target_hidden: torch.Tensor,
    target_weight: torch.Tensor,
    behavior_hidden: torch.Tensor | None,
    behavior_weight: torch.Tensor | None,
    batch: Batch,
    actions: torch.Tensor,
    *,
    backup: Backup,
    dummy: int | None,
) -> torch.Tensor:
    """y = r + discount * value(s') of each action token, r alone where the episode ends.

    Hidden states (B * L, H) and head (V, H) of the target network, and those of the behavior
    policy, None if the backup asks it nothing. actions (N,): positions. backup: of one of
    loss.BACKUPS. dummy: its token id, or None for the uniform leftover.

    Returns:
        (N,), float32, or float64 if given that; not clamped.
    """
    has_next, states = next_states(batch, actions)
    of_target = target_hidden[states], target_weight.to(target_hidden.dtype)
    of_behavior = None, None
    if behavior_hidden is not None:
        of_behavior = behavior_hidden[states], behavior_weight.to(behavior_hidden.dtype)
    with head_precision(target_hidden):
        value = linear_state_value(*of_target, *of_behavior, backup=backup, dummy=dummy)
    target = batch["reward"].reshape(-1)[actions].to(value.dtype)
    discount = batch["discount"].reshape(-1)[actions].to(value.dtype)
    largest = torch.finfo(value.dtype).max  # a discount of 0 meets no infinity
    target[has_next] += discount[has_next] * value.clamp(max=largest)
    return target


@torch.no_grad()
def action_log_probs(
    hidden: torch.Tensor, weight: torch.Tensor, tokens: torch.Tensor, *, chunk_size: int = 256
) -> torch.Tensor:
    """log softmax(hidden @ weight.T) at one token each: (N, H), (V, H), (N,) -> (N,) float32."""
    weight = weight.to(hidden.dtype)
    chosen = torch.empty(len(hidden), device=hidden.device)
    with head_precision(hidden):
        for start in range(0, len(hidden), chunk_size):
            chunk = slice(start, start + chunk_size)
            logits = (hidden[chunk] @ weight.T).float()
            at_token = logits.gather(1, tokens[chunk, None])[:, 0]
            chosen[chunk] = at_token - logits.logsumexp(-1)
    return chosen


def head_precision(hidden: torch.Tensor) -> torch.autocast:
    """A context in which a head computes in the dtype of its inputs, mixed precision or not.

    Logits rounded to bfloat16 err by up to .05 in log(p / pi), so ratios do without.
    """
    return torch.autocast(hidden.device.type, enabled=False)
