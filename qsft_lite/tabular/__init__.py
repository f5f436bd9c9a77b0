"""Exact tables: fixed points of Q-SFT, and the methods beside it, on MDPs that fit in memory."""

from qsft_lite.tabular.fixed_points import (
    Backup,
    Leftover,
    TabularMDP,
    bellman_backup,
    check_policy,
    extract_policy,
    greedy_policy,
    leaked_mass,
    policy_return,
    policy_value,
    probability_ratio,
    q_sft,
    q_sft_probabilities,
    supported_actions,
    value_iteration,
)

__all__ = [
    "Backup",
    "Leftover",
    "TabularMDP",
    "bellman_backup",
    "check_policy",
    "extract_policy",
    "greedy_policy",
    "leaked_mass",
    "policy_return",
    "policy_value",
    "probability_ratio",
    "q_sft",
    "q_sft_probabilities",
    "supported_actions",
    "value_iteration",
]
