"""Where endgames start: positions to train on, and held-out ones to validate and test on.

The held-out positions, and all their mirror images, are never drawn as starts.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from qsft_lite.tasks.endgames.moves import MATERIALS, in_check, is_legal
from qsft_lite.tasks.endgames.space import SYMMETRIES
from qsft_lite.tasks.endgames.text import fen_of

TEST, VALIDATION = 645, 200  # how many; LMRL-Gym tests on 645
HELD_OUT_SEED = 645


def test_positions() -> list[str]:
    """The 645 held-out FENs of the evaluation: 162 of the first material, 161 of each other."""
    return list(_held_out()[0])


def validation_positions() -> list[str]:
    """200 more held-out FENs, 50 of each material, to choose settings on."""
    return list(_held_out()[1])


test_positions.__test__ = False  # it is no test, whatever pytest thinks


def start_positions(material: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """(n, k) positions drawn evenly: legal, White to move, Black not in check, not held out."""
    return _draw(material, n, rng, _held_out_codes()[material])


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
def _held_out() -> tuple[tuple[str, ...], tuple[str, ...]]:
    test, validation = [], []
    for i, material in enumerate(MATERIALS):
        squares = _held_out_squares(material)
        tests = TEST // 4 + (i < TEST % 4)
        fens = [fen_of(material, row) for row in squares]
        test += fens[:tests]
        validation += fens[tests:]
    return tuple(test), tuple(validation)


@cache
def _held_out_squares(material: str) -> np.ndarray:
    """(n, k) the test and then the validation positions of a material, no two the same."""
    i = MATERIALS.index(material)
    n = TEST // 4 + (i < TEST % 4) + VALIDATION // 4
    drawn = _draw(material, 2 * n, np.random.default_rng([HELD_OUT_SEED, i]), np.array([]))
    _, first = np.unique(_classes(material, drawn), return_index=True)
    return drawn[np.sort(first)[:n]]


@cache
def _held_out_codes() -> dict[str, np.ndarray]:
    """For each material the codes of its held-out positions and their mirror images."""
    return {
        material: np.concatenate(
            [codes(material, image[_held_out_squares(material)]) for image in SYMMETRIES]
        )
        for material in MATERIALS
    }


def _classes(material: str, squares: np.ndarray) -> np.ndarray:
    """(N,) one number a position, the same for its mirror images."""
    return np.min([codes(material, image[squares]) for image in SYMMETRIES], axis=0)
