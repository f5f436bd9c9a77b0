"""Theorem 4.1 and its edges, as functions to check on a known MDP.

Arrays are float64 of shape (S, A): states by actions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qsft_lite.tabular import probability_ratio, supported_actions


class Bounds(NamedTuple):
    """Theorem 4.1, Q*(s,a) >= p(a|s) >= pi(a|s) Q*(s,a): how often a half of it fails.

    upper_violations, lower_violations: shares of the entries where p > Q*, and where p < pi Q*, by
    more than rounding.
    """

    upper_violations: float
    lower_violations: float


def theorem_bounds(p: np.ndarray, behavior: np.ndarray, q_star: np.ndarray) -> Bounds:
    """Whether p (S, A) is inside the bounds of Theorem 4.1."""
    above, below = p - q_star > 1e-9, behavior * q_star - p > 1e-9
    return Bounds(float(above.mean()), float(below.mean()))


def max_bias(
    p: np.ndarray, behavior: np.ndarray, q: np.ndarray, support: float = 0.0
) -> np.ndarray:
    """(S,) by how much max_a p/pi exceeds max_a q, both over the actions with pi >= support.

    support=0 is the paper's backup, over every action that pi plays.
    """
    allowed = supported_actions(behavior, support)
    best = np.where(allowed, q, -np.inf).max(axis=1)
    return probability_ratio(p, behavior, allowed).max(axis=1) - best


def behavior_threshold(n_actions: int, target: float, tolerance: float) -> float:
    """Below which pi(a) the leak alone errs by more than `tolerance` in p/pi.

    When every action of a state has the same weight y, Eq. 3's minimiser is
    p/pi = y + (1 - y) (1/pi - 1) / (A - 1), so the error of p/pi stays within `tolerance` while
    pi >= 1 / (1 + tolerance (A - 1) / (1 - y)). For 1 - y = tolerance that is 1 / A.
    """
    if target >= 1:
        return 0.0
    return 1 / (1 + tolerance * (n_actions - 1) / (1 - target))
