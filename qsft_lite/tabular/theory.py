"""Theorem 4.1 and its edges, as functions to check on a known MDP.

Arrays are float64 of shape (S, A): states by actions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qsft_lite.tabular import probability_ratio, supported_actions


@dataclass(frozen=True, eq=False)
class Bounds:
    """Theorem 4.1, Q*(s,a) >= p(a|s) >= pi(a|s) Q*(s,a), entry by entry.

    upper_gap: Q* - p, negative where the upper half fails. lower_gap: p - pi Q*, negative where the
    lower half fails. tightness: p / Q*, 1 where the upper bound is exact (nan where Q* is 0).
    """

    upper_gap: np.ndarray
    lower_gap: np.ndarray
    tightness: np.ndarray

    @property
    def upper_violations(self) -> float:
        """Share of the entries where p > Q* by more than rounding."""
        return float((self.upper_gap < -1e-9).mean())

    @property
    def lower_violations(self) -> float:
        """Share of the entries where p < pi Q* by more than rounding."""
        return float((self.lower_gap < -1e-9).mean())


def theorem_bounds(p: np.ndarray, behavior: np.ndarray, q_star: np.ndarray) -> Bounds:
    """How far p (S, A) is inside, or outside, the bounds of Theorem 4.1."""
    tightness = np.divide(p, q_star, out=np.full_like(p, np.nan), where=q_star != 0)
    return Bounds(q_star - p, p - behavior * q_star, tightness)


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
