"""From a batch of packed rows to Bellman targets: which hidden states are needed, and what for.

The logits that choose token i sit at position i - 1. So with an action at token i and the next one
at token j, the state is position i - 1 and the next state position j - 1. Heads are applied at
these positions only. Positions count through the flattened batch (B * L,).
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from qsft_lite.data.packing import PACKED
from qsft_lite.loss import Backup, linear_state_value
from qsft_lite.models import final_hidden
from qsft_lite.trainer.networks import active

__all__ = ["action_log_probs", "action_positions", "bellman_targets", "next_states", "token_states"]

Batch = dict[str, torch.Tensor]


def token_states(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Hidden states (B * L, H) that the model's head reads, each episode by itself.

    Columns of the batch that are none of packed rows, such as pixel_values, go to the model as they
    are, if it takes them.
    """
    further = {name: column for name, column in batch.items() if name not in PACKED.names}
    place = (batch["input_ids"], batch["position_ids"], batch["segment_ids"])
    with active(model) as running:
        return final_hidden(running, *place, **further).flatten(0, 1)


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
