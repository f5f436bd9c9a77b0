"""Moves of endgames with a bare black king, for whole arrays of positions at once.

A material is White's pieces beside the king: "Q", "R", "QR" or "RR". A position of it is a row of
squares: white king, the pieces in that order, black king; squares are 0 (a1) to 63 (h8), as in the
package chess. Whose turn it is follows from the context. White has a fixed number M of move slots:
8 king steps, then for each piece and each of its directions the distances 1 to 7.
"""

from __future__ import annotations

import numpy as np

Moves = tuple[np.ndarray, np.ndarray, np.ndarray]  # what `white_moves` and `black_moves` return

MATERIALS = ("Q", "R", "QR", "RR")
KING_STEPS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))  # file, rank
DIRECTIONS = {"R": KING_STEPS[::2], "Q": KING_STEPS}


def left(material: str, piece: int) -> str:
    """The material when its piece-th piece (from 0) is taken; "" for a bare king."""
    return material[:piece] + material[piece + 1 :]


def _step(square: int, step: tuple[int, int], distance: int = 1) -> int:
    """The square at that distance; -1 outside the board."""
    file, rank = square % 8 + step[0] * distance, square // 8 + step[1] * distance
    return rank * 8 + file if 0 <= file < 8 and 0 <= rank < 8 else -1


def _between() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(64, 64) straight and diagonal lines, and (64, 64, 64): the third is between the two."""
    straight, diagonal = np.zeros((2, 64, 64), dtype=bool)
    between = np.zeros((64, 64, 64), dtype=bool)
    for start in range(64):
        for step in KING_STEPS:
            passed: list[int] = []
            for distance in range(1, 8):
                end = _step(start, step, distance)
                if end < 0:
                    break
                (straight if 0 in step else diagonal)[start, end] = True
                between[start, end, passed] = True
                passed.append(end)
    return straight, diagonal, between


STEP = np.array([[_step(square, step) for step in KING_STEPS] for square in range(64)])  # (64, 8)
_STRAIGHT, _DIAGONAL, BETWEEN = _between()
LINES = {"R": _STRAIGHT, "Q": _STRAIGHT | _DIAGONAL}
NEAR = np.zeros((64, 64), dtype=bool)  # a king's step apart, or the same square
for _square in range(64):
    NEAR[_square, [_square, *STEP[_square][STEP[_square] >= 0]]] = True
# (64, slots): where a piece gets, -1 outside the board
TARGETS = {
    piece: np.array(
        [[_step(s, d, n) for d in steps for n in range(1, 8)] for s in range(64)], dtype=np.int64
    )
    for piece, steps in DIRECTIONS.items()
}


def attacked(
    material: str, squares: np.ndarray, target: np.ndarray, without: int = -1
) -> np.ndarray:
    """(N,) bool: one of White's pieces, not its king, attacks target (N,).

    The black king is no obstacle: it cannot hide behind itself. without: a piece that is taken.
    """
    hit = np.zeros(len(squares), dtype=bool)
    for i, piece in enumerate(material):
        if i == without:
            continue
        start = squares[:, 1 + i]
        free = LINES[piece][start, target] & ~BETWEEN[start, target, squares[:, 0]]
        for j in range(len(material)):
            if j not in (i, without):
                free &= ~BETWEEN[start, target, squares[:, 1 + j]]
        hit |= free
    return hit


def is_legal(material: str, squares: np.ndarray) -> np.ndarray:
    """(N,) bool: different squares and the kings apart; what is left of the rules is `attacked`."""
    king, pieces, enemy = squares[:, 0], squares[:, 1:-1], squares[:, -1]
    legal = ~NEAR[king, enemy]
    for i in range(len(material)):
        legal &= (pieces[:, i] != king) & (pieces[:, i] != enemy)
        for j in range(i):
            legal &= pieces[:, i] != pieces[:, j]
    return legal


def in_check(material: str, squares: np.ndarray) -> np.ndarray:
    """(N,) bool: the black king is attacked."""
    return attacked(material, squares, squares[:, -1])


def white_moves(material: str, squares: np.ndarray) -> Moves:
    """All moves of White: mover (M,), the column it moves, and target, legal, both (N, M).

    target is a square, -1 outside the board; the positions must be legal with White to move.
    """
    movers, targets, legals = [], [], []
    for column in range(len(material) + 1):
        start = squares[:, column]
        target = STEP[start] if column == 0 else TARGETS[material[column - 1]][start]
        legal = target >= 0
        for other in range(squares.shape[1]):
            if other != column:
                where = squares[:, other, None]
                legal = legal & (target != where)
                if column:
                    legal &= ~BETWEEN[start[:, None], target, where]
        if column == 0:
            legal &= ~NEAR[target, squares[:, -1:]]
        movers.append(np.full(target.shape[1], column))
        targets.append(target)
        legals.append(legal)
    return np.concatenate(movers), np.hstack(targets), np.hstack(legals)


def black_moves(material: str, squares: np.ndarray) -> Moves:
    """All moves of the black king: target and legal, both (N, 8), and taken (N, 8).

    taken is the piece (from 0) that stands on the target, -1 when none does.
    """
    targets = STEP[squares[:, -1]]
    taken = np.full(targets.shape, -1)
    for i in range(len(material)):
        taken[targets == squares[:, 1 + i, None]] = i
    legal = (targets >= 0) & ~NEAR[targets, squares[:, :1]]
    for slot in range(8):
        attack = attacked(material, squares, targets[:, slot])
        for i in range(len(material)):
            takes = taken[:, slot] == i
            attack[takes] = attacked(material, squares[takes], targets[takes, slot], without=i)
        legal[:, slot] &= ~attack
    return targets, legal, taken


def move_white(squares: np.ndarray, mover: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The positions (N, k) after White moved column mover (N,) to target (N,)."""
    after = squares.copy()
    after[np.arange(len(squares)), mover] = target
    return after
