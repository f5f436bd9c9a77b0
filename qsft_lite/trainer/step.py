"""A training step of either stage, whole: from a batch of packed rows to the loss.

Hidden states are computed once for each model, and heads are applied where an action is chosen.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from qsft_lite.loss import linear_cross_entropy, linear_q_sft_loss
from qsft_lite.models import output_head
from qsft_lite.trainer.config import QSFTConfig
from qsft_lite.trainer.targets import (
    Batch,
    action_log_probs,
    action_positions,
    bellman_targets,
    head_precision,
    token_states,
)

__all__ = ["behavior_step", "q_sft_step"]


def q_sft_step(
    q: PreTrainedModel,
    target: PreTrainedModel,
    behavior: PreTrainedModel | None,
    batch: Batch,
    config: QSFTConfig,
    dummy: int,
    *,
    backup: str | None = None,
    statistics: bool = False,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of one batch of packed rows, and what to log about it.

    Args:
        q: p_theta, the model that is trained.
        target: p_bar, its moving average.
        behavior: pi_phi; only asked where the backup, the statistics or its own training need it.
            None will do where the batch holds its answers (see behavior_cache).
        batch: packed rows, as data.collate gives them.
        config: leftover, backup, support, beta, score, clamp and train_behavior are read.
        dummy: the dummy's token id; read with leftover="dummy" only.
        backup: in place of the config's.
        statistics: whether to work out the statistics, which costs another head.

    Returns:
        The loss, a scalar, mean over the batch's action tokens, 0 where there are none; with
        train_behavior the cross-entropy of pi_phi is added to it. And the statistics, scalars by
        name, see ``_statistics``; none without action tokens.

    Raises:
        FloatingPointError: with clamp=False, a target outside [0, 1].
    """
    leftover = dummy if config.leftover == "dummy" else "uniform"
    backup = backup or config.backup
    actions = action_positions(batch)
    tokens = batch["input_ids"].reshape(-1)[actions]

    behavior_hidden = None
    if config.train_behavior or _backup_asks_behavior(backup, batch):
        with torch.set_grad_enabled(config.train_behavior and torch.is_grad_enabled()):
            behavior_hidden = token_states(behavior, batch)
    raw_target = _targets(
        target, behavior, behavior_hidden, batch, actions, config, backup, leftover
    )
    y = raw_target.clamp(0, 1)
    if not config.clamp and bool((y != raw_target).any()):
        raise FloatingPointError(
            f"targets reach from {raw_target.min():.3g} to {raw_target.max():.3g}, outside [0, 1]: "
            "check the range that rewards were scaled by, raise support, or set clamp=True"
        )

    q_hidden = token_states(q, batch)
    hidden, weight = _loss_inputs(q_hidden[actions - 1], q)
    with head_precision(hidden):
        loss = linear_q_sft_loss(hidden, weight, tokens, y, leftover=leftover, validate=False)
    if config.train_behavior:
        loss = loss + _behavior_loss(behavior, behavior_hidden, actions, tokens)
    if not statistics or not len(actions):
        return loss, {}

    with torch.no_grad():
        if "action_log_probs" in batch:
            log_pi = batch["action_log_probs"]
        else:
            if behavior_hidden is None:
                behavior_hidden = token_states(behavior, batch)
            head = output_head(behavior).weight
            log_pi = action_log_probs(behavior_hidden[actions - 1], head, tokens)
        states, head = q_hidden[actions - 1], output_head(q).weight
        log_p = action_log_probs(states, head, tokens)
        log_dummy = None
        if config.leftover == "dummy":
            log_dummy = action_log_probs(states, head, torch.full_like(tokens, dummy))
        returns = batch["return_to_go"].reshape(-1)[actions]
        return loss, _statistics(raw_target, log_p, log_pi, log_dummy, returns)


def behavior_step(behavior: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Stage one: cross-entropy of pi_phi, mean over the batch's action tokens; a scalar."""
    actions = action_positions(batch)
    tokens = batch["input_ids"].reshape(-1)[actions]
    return _behavior_loss(behavior, token_states(behavior, batch), actions, tokens)


def _behavior_loss(
    behavior: PreTrainedModel, hidden: torch.Tensor, actions: torch.Tensor, tokens: torch.Tensor
) -> torch.Tensor:
    hidden, weight = _loss_inputs(hidden[actions - 1], behavior)
    with head_precision(hidden):
        return linear_cross_entropy(hidden, weight, tokens)


def _loss_inputs(hidden: torch.Tensor, model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states and head in the precision of training: bfloat16 where that is switched on."""
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    return hidden.to(dtype), output_head(model).weight.to(dtype)


def _backup_asks_behavior(backup: str, batch: Batch) -> bool:
    """Whether targets need pi_phi's hidden states."""
    return backup in ("max", "support", "policy") and "support_ids" not in batch


def _targets(
    target: PreTrainedModel,
    behavior: PreTrainedModel | None,
    behavior_hidden: torch.Tensor | None,
    batch: Batch,
    actions: torch.Tensor,
    config: QSFTConfig,
    backup: str,
    leftover: str | int,
) -> torch.Tensor:
    """y (N,) of the action tokens, not clamped."""
    if backup == "random":
        return torch.rand(len(actions), device=actions.device)
    if backup == "returns":
        return batch["return_to_go"].reshape(-1)[actions].float()
    asked = behavior_hidden is not None
    with torch.no_grad():
        return bellman_targets(
            token_states(target, batch),
            output_head(target).weight,
            behavior_hidden.detach() if asked else None,
            output_head(behavior).weight if asked else None,
            batch,
            actions,
            backup=backup,
            leftover=leftover,
            support=config.support,
            beta=config.beta,
            score=config.score,
        )


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
    y = raw_target.clamp(0, 1)
    ratio = (log_p - log_pi.to(log_p.dtype)).exp()
    low, middle, high = ratio.quantile(torch.tensor([0.05, 0.5, 0.95], device=ratio.device))
    value = ratio.clamp(max=1) if log_dummy is None else 1 - log_dummy.exp()
    spread = value.std(correction=0) * returns.std(correction=0)
    covariance = ((value - value.mean()) * (returns - returns.mean())).mean()
    found = {
        "target_mean": y.mean(),
        "target_std": y.std(correction=0),
        "clamped": (y != raw_target).float().mean(),
        "ratio_05": low,
        "ratio_50": middle,
        "ratio_95": high,
        "value_bias": (value - returns).mean(),
        "value_correlation": torch.where(spread > 0, covariance / spread, 0),
    }
    if log_dummy is not None:
        found["dummy"] = log_dummy.exp().mean()
    return found
