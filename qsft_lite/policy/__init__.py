"""Policies at play: pi_hat of Q-SFT, and what plays any policy with a cache."""

from qsft_lite.policy.cached import CachedPolicy
from qsft_lite.policy.constraints import ActionList
from qsft_lite.policy.last_line import LastLine
from qsft_lite.policy.once import Once
from qsft_lite.policy.q_sft import QSFTPolicy

__all__ = ["ActionList", "CachedPolicy", "LastLine", "Once", "QSFTPolicy"]
