"""Pieces of different sizes that stand one after another in one array."""

from __future__ import annotations

import numpy as np


def starts(sizes: np.ndarray) -> np.ndarray:
    """Where each of several pieces begins when they stand one after another. (N,) int64."""
    return np.cumsum(sizes, dtype=np.int64) - sizes


def ragged_indices(begin: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """All of begin[0], begin[0] + 1, ... (sizes[0] of them), begin[1], ...; (sum of sizes,)."""
    return np.repeat(begin - starts(sizes), sizes) + np.arange(int(sizes.sum()))
