"""A training step of the paired form, and what it asks of the frozen behavior policy.

As in ``step``, an action at token i is chosen at position i - 1. Only single logits are read, but
for backups that ask for the likely actions of a next state.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from qsft_lite.loss import (
    Backup,
    Support,
    linear_paired_q_sft_loss,
    linear_support,
    paired_state_value,
    paired_values,
    single_logits,
)
from qsft_lite.models import NewHead, output_head
from qsft_lite.trainer.behavior_cache import flat_support, padded_support
from qsft_lite.trainer.step import (
    Batch,
    action_positions,
    head_precision,
    in_range,
    next_states,
    of_targets,
    quantiles,
    token_states,
)

__all__ = ["behavior_columns", "paired_step"]


def paired_step(
    q: PreTrainedModel | NewHead,
    target: PreTrainedModel | NewHead | None,
    behavior: PreTrainedModel,
    batch: Batch,
    *,
    backup: Backup,
    prior: float,
    clamp: bool = True,
    statistics: bool = False,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of one batch of packed rows, and what to log about it.

    Args:
        q: theta, the network that is trained: a language model that began as the behavior policy,
            or a NewHead, whose scores are compared with 0 in place of the behavior's logits.
        target: its moving average; None for a backup of returns or random targets.
        behavior: phi, frozen; run only for what the batch does not hold, see behavior_cache.
        batch: packed rows, as data.collate gives them.
        backup: what the targets are.
        prior: the value where training has changed nothing.
        clamp: whether to clamp targets to [0, 1]; otherwise one outside is an error.
        statistics: whether to work out the statistics.

    Returns:
        The loss, a scalar, mean over the batch's action tokens, 0 where there are none. And the
        statistics, scalars by name: those of ``step.of_targets``, and quantiles of q; none without
        action tokens.

    Raises:
        FloatingPointError: with clamp=False, a target outside [0, 1].
    """
    actions = action_positions(batch)
    tokens = batch["input_ids"].reshape(-1)[actions]
    with torch.no_grad():
        asked = _asked_states(batch, actions, backup)
        reference, support = _read_behavior(behavior, batch, actions, asked, backup)
        if isinstance(q, NewHead):
            reference = torch.zeros_like(reference)
            support = support._replace(behavior_logits=torch.zeros_like(support.behavior_logits))
        returns = batch["return_to_go"].reshape(-1)[actions].float()
        if backup.kind == "random":
            raw_target = torch.rand(len(actions), device=actions.device)
        elif backup.kind == "returns":
            raw_target = returns
        else:
            read = batch, actions, tokens, reference, asked, support
            raw_target = _bellman_targets(target, *read, backup=backup, prior=prior)
        y = in_range(raw_target, clamp)

    hidden, weight = _head_inputs(q, token_states(q, batch)[actions - 1])
    with head_precision(hidden):
        loss = linear_paired_q_sft_loss(
            hidden, weight, reference, tokens, y, prior=prior, validate=False
        )
        if not statistics or not len(actions):
            return loss, {}
        with torch.no_grad():
            value = paired_values(single_logits(hidden, weight, tokens), reference, prior)
    return loss, of_targets(raw_target, value, returns) | quantiles("q", value)


def _bellman_targets(
    target: PreTrainedModel | NewHead,
    batch: Batch,
    actions: torch.Tensor,
    tokens: torch.Tensor,
    reference: torch.Tensor,
    asked: torch.Tensor,
    support: Support,
    *,
    backup: Backup,
    prior: float,
) -> torch.Tensor:
    """y = r + discount * value(s') of each action token (N,), r alone where the episode ends.

    reference (N,): the behavior's logits of the actions. asked (N,) bool: whether the value of the
    next state is worked out from its support (one state each in ``support``); of the others, if
    they have one, it is the value of the next action that was recorded.
    """
    states = token_states(target, batch)
    has_next, places = next_states(batch, actions)
    value = torch.zeros_like(reference)
    with head_precision(states):
        if backup.kind == "recorded":
            hidden, weight = _head_inputs(target, states[actions - 1])
            q = paired_values(single_logits(hidden, weight, tokens), reference, prior)
            known = has_next & ~asked
            following = (places + 1)[known[has_next]]  # the next action is chosen at its state
            value[known] = q[torch.searchsorted(actions, following)].to(value.dtype)
            backup = Backup("behavior", backup.support)
        if asked.any():
            hidden, weight = _head_inputs(target, states[places[asked[has_next]]])
            found = paired_state_value(hidden, weight, support, backup=backup, prior=prior)
            value[asked] = found.to(value.dtype)
    reward, discount = (batch[name].reshape(-1)[actions] for name in ("reward", "discount"))
    return torch.where(has_next, reward + discount * value, reward)


def _asked_states(batch: Batch, actions: torch.Tensor, backup: Backup) -> torch.Tensor:
    """Of which actions (N,) the support of the next state is asked for.

    Of "recorded" only where the episode was cut off: there is a next state, but no next action.
    """
    has_next, states = next_states(batch, actions)
    if backup.kind in ("returns", "random"):
        return torch.zeros_like(has_next)
    if backup.kind == "recorded":
        is_action = batch["action_mask"].reshape(-1)
        length, following = batch["input_ids"].shape[1], states + 1
        inside = (following % length > 0) & (following < len(is_action))  # not in the row after
        recorded = inside & is_action[following.clamp(max=len(is_action) - 1)]
        return has_next.masked_scatter(has_next, ~recorded)
    return has_next


def _read_behavior(
    behavior: PreTrainedModel,
    batch: Batch,
    actions: torch.Tensor,
    asked: torch.Tensor,
    backup: Backup,
) -> tuple[torch.Tensor, Support]:
    """The behavior's logits of the actions (N,), and the support of the states that are asked."""
    if "behavior_logit" in batch:
        reference = batch["behavior_logit"].reshape(-1)[actions]
        if asked.any():
            return reference, padded_support(batch)
        return reference, _no_support(reference)
    states = token_states(behavior, batch)
    hidden, weight = _head_inputs(behavior, states[actions - 1])
    tokens = batch["input_ids"].reshape(-1)[actions]
    has_next, places = next_states(batch, actions)
    with head_precision(states):
        reference = single_logits(hidden, weight, tokens)
        if not asked.any():
            return reference, _no_support(reference)
        hidden, weight = _head_inputs(behavior, states[places[asked[has_next]]])
        least = 0.0 if backup.kind == "max" else backup.support
        return reference, linear_support(hidden, weight, least)


@torch.no_grad()
def behavior_columns(
    behavior: PreTrainedModel, batch: Batch, backup: Backup
) -> dict[str, torch.Tensor]:
    """What ``behavior_cache`` keeps of a batch of packed rows, for this backup."""
    actions = action_positions(batch)
    asked = _asked_states(batch, actions, backup)
    reference, support = _read_behavior(behavior, batch, actions, asked, backup)
    flat = batch["input_ids"].new_zeros(batch["input_ids"].numel())
    logits = flat.float().index_copy(0, actions, reference.float())
    columns = {"behavior_logit": logits.view_as(batch["input_ids"])}
    if backup.kind in ("returns", "random"):
        return columns
    sizes = flat.clone()
    sizes[actions[asked]] = (support.log_pi > -torch.inf).sum(-1)
    return {**columns, "support_sizes": sizes.view_as(batch["input_ids"]), **flat_support(support)}


def _no_support(reference: torch.Tensor) -> Support:
    empty = reference.new_zeros(0, 1)
    return Support(empty.long(), empty, empty)


def _head_inputs(
    model: PreTrainedModel | NewHead, hidden: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states and head in the head's own precision: single logits cost nothing to speak of.

    Rounded to bfloat16, the difference of two logits would err by up to .05.
    """
    weight = output_head(model).weight
    return hidden.to(weight.dtype), weight
