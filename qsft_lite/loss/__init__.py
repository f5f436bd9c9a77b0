"""The losses and Bellman targets of Q-SFT, on logits and from hidden states."""

from qsft_lite.loss.linear import linear_cross_entropy, linear_q_sft_loss, linear_state_value
from qsft_lite.loss.q_sft import BACKUPS, SCORES, Backup, bellman_target, q_sft_loss

__all__ = [
    "BACKUPS",
    "SCORES",
    "Backup",
    "bellman_target",
    "linear_cross_entropy",
    "linear_q_sft_loss",
    "linear_state_value",
    "q_sft_loss",
]
