"""The losses and Bellman targets of Q-SFT, on logits and from hidden states."""

from qsft_lite.loss.q_sft import (
    BACKUPS,
    SCORES,
    TargetStatistics,
    bellman_target,
    linear_cross_entropy,
    linear_q_sft_loss,
    linear_state_value,
    linear_support,
    linear_support_value,
    q_sft_loss,
)

__all__ = [
    "BACKUPS",
    "SCORES",
    "TargetStatistics",
    "bellman_target",
    "linear_cross_entropy",
    "linear_q_sft_loss",
    "linear_state_value",
    "linear_support",
    "linear_support_value",
    "q_sft_loss",
]
