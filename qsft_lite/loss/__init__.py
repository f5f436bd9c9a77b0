"""The losses and Bellman targets of Q-SFT, on logits and from hidden states."""

from qsft_lite.loss.linear import linear_cross_entropy, linear_q_sft_loss, linear_state_value
from qsft_lite.loss.paired import (
    Support,
    linear_paired_q_sft_loss,
    linear_support,
    paired_q_sft_loss,
    paired_state_value,
    paired_values,
    single_logits,
)
from qsft_lite.loss.q_sft import BACKUPS, FROM_DATA, SCORES, Backup, bellman_target, q_sft_loss

__all__ = [
    "BACKUPS",
    "FROM_DATA",
    "SCORES",
    "Backup",
    "Support",
    "bellman_target",
    "linear_cross_entropy",
    "linear_paired_q_sft_loss",
    "linear_q_sft_loss",
    "linear_state_value",
    "linear_support",
    "paired_q_sft_loss",
    "paired_state_value",
    "paired_values",
    "q_sft_loss",
    "single_logits",
]
