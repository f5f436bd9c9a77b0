"""Policies at play: pi_hat of Q-SFT, and what plays any policy with a cache."""

from qsft_lite.policy.q_sft import ActionList, CachedPolicy, Constraint, LastLine, QSFTPolicy

__all__ = ["ActionList", "CachedPolicy", "Constraint", "LastLine", "QSFTPolicy"]
