"""Where endgames start: positions to train on, and held-out ones to validate and test on.

The held-out positions, and all their mirror images, are never drawn as starts.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from qsft_lite.tasks.endgames.moves import MATERIALS, in_check, is_legal
from qsft_lite.tasks.endgames.space import SYMMETRIES
from qsft_lite.tasks.endgames.text import fen_of

# How many of each material; LMRL-Gym tests on 645.
TEST = {"Q": 162, "R": 161, "QR": 161, "RR": 161}
VALIDATION = 50
HELD_OUT_SEED = 645


def test_positions() -> list[str]:
    """The 645 held-out FENs of the evaluation, about as many of each material."""
    return [fen_of(m, row) for m in MATERIALS for row in _held_out(m)[: TEST[m]]]


def validation_positions() -> list[str]:
    """200 more held-out FENs, 50 of each material, to choose settings on."""
    return [fen_of(m, row) for m in MATERIALS for row in _held_out(m)[TEST[m] :]]


test_positions.__test__ = False  # it is no test, whatever pytest thinks


def start_positions(material: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """(n, k) positions drawn evenly: legal, White to move, Black not in check, not held out."""
    return _draw(material, n, rng, _held_out_codes(material))


def _draw(material: str, n: int, rng: np.random.Generator, excluded: np.ndarray) -> np.ndarray:
    drawn = np.empty((0, len(material) + 2), dtype=np.int64)
    while len(drawn) < n:
        squares = rng.integers(64, size=(2 * (n - len(drawn)) + 16, len(material) + 2))
        kept = is_legal(material, squares) & ~in_check(material, squares)
        kept &= ~np.isin(codes(material, squares), excluded)
        drawn = np.concatenate([drawn, squares[kept]])
    return drawn[:n]


def codes(material: str, squares: np.ndarray) -> np.ndarray:
    """(N,) one number a position, the same for boards that look the same."""
    squares = squares.copy()
    if material == "RR":
        squares[:, 1:3].sort(axis=1)
    code = np.full(len(squares), MATERIALS.index(material))
    for column in squares.T:
        code = code * 64 + column
    return code


@cache
def _held_out(material: str) -> np.ndarray:
    """(n, k) the test and then the validation positions of a material, no two the same."""
    n = TEST[material] + VALIDATION
    rng = np.random.default_rng([HELD_OUT_SEED, MATERIALS.index(material)])
    drawn = _draw(material, 2 * n, rng, np.array([]))
    # Mirror images are the same: the least code of all images stands for a position.
    _, first = np.unique(_image_codes(material, drawn).min(axis=0), return_index=True)
    return drawn[np.sort(first)[:n]]


@cache
def _held_out_codes(material: str) -> np.ndarray:
    """The codes of all held-out positions and their mirror images."""
    return _image_codes(material, _held_out(material)).ravel()


def _image_codes(material: str, squares: np.ndarray) -> np.ndarray:
    """(8, N) the codes of the mirror images of positions (N, k)."""
    return np.array([codes(material, image[squares]) for image in SYMMETRIES])
