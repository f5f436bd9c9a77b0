r"""Exact values in endgames: of perfect play, and of a known behavior policy.

The return of a game is its reward: +1 for mate, 0 for a draw, discounted by gamma for each move of
White, so that mate by the n-th move is worth gamma^(n - 1). With legal moves it lies in [0, 1].
Q(s, a) is the value of the position that the move leads to, Black to move:

    Q = 1 at mate, 0 at a draw, else gamma * mean over Black's replies of V(s'),
    V = max over White's moves of Q (optimal), or their mean under the behavior policy.

Two rules that look at the past are left out: the draws by 75 moves and by fivefold repetition. With
gamma = 1 nearly every position is worth 1 to an optimal player: it wins, sooner or later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import chess
import numpy as np
from scipy import sparse

from qsft_lite.tasks.checks import check_weights
from qsft_lite.tasks.endgames.moves import move_white, white_moves
from qsft_lite.tasks.endgames.space import EndgameSpace, space
from qsft_lite.tasks.endgames.tables import DRAW, table
from qsft_lite.tasks.endgames.text import read_board

TOLERANCE = 1e-10  # of the largest change in a sweep
CHUNK = 20_000  # positions whose moves are listed at a time
Weights = Mapping[str, float]  # of "perfect" and "random"


@dataclass(frozen=True, eq=False)
class EndgameValues:
    """Exact values of one material: white (N,) V with White to move, black (N,) with Black to move.

    float64 over the positions of `space(material)`, 0 where a position is not legal.
    """

    material: str
    white: np.ndarray
    black: np.ndarray

    def v(self, squares: np.ndarray) -> np.ndarray:
        """(N,) V of positions (N, k) with White to move."""
        return self.white[space(self.material).index(squares)]

    def q(self, squares: np.ndarray) -> np.ndarray:
        """(N, M) Q of every move slot (see `white_moves`), NaN for moves that are not legal."""
        movers, targets, legal = white_moves(self.material, squares)
        rows, slots = np.nonzero(legal)
        after = move_white(squares[rows], movers[slots], targets[rows, slots])
        q = np.full(legal.shape, np.nan)
        q[rows, slots] = self.black[space(self.material).index(after)]
        return q


def exact_values(
    material: str, *, behavior: Weights | None = None, gamma: float = 0.99
) -> EndgameValues:
    """The values of optimal play (behavior None), or of a behavior policy.

    behavior: weights of its two parts, {"perfect": .6, "random": .4}: at each move it plays, with
    these probabilities, any of the quickest mates or any legal move. The defender is perfect: it
    plays any of the longest defences, to a draw where it can. Three men take less than a second,
    four men up to a minute and 2 GB. Results are kept, so ask again freely.

    Raises ValueError for weights or a gamma that make no sense.
    """
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma must be in (0, 1], got {gamma}")
    if behavior is None:
        return _optimal_values(material, gamma)
    return _behavior_values(material, **check_behavior(behavior), gamma=gamma)


def exact_q(board: chess.Board, **settings: Any) -> dict[chess.Move, float]:
    """Q of every legal move on a board; the settings are those of `exact_values`.

    Raises ValueError for a board that is none of the endgames, or has Black to move.
    """
    material, squares = read_board(board)
    if not material or board.turn != chess.WHITE:
        raise ValueError(f"{board.fen()!r} is no endgame with White to move")
    values = exact_values(material, **settings)
    moves = list(board.legal_moves)
    after = squares.repeat(len(moves), axis=0)
    for row, move in zip(after, moves, strict=True):
        row[row == move.from_square] = move.to_square
    q = values.black[space(material).index(after)]
    return dict(zip(moves, q.tolist(), strict=True))


def check_behavior(weights: Weights) -> dict[str, float]:
    """The probabilities of both parts, "perfect" and "random"; ValueError for other weights."""
    parts = {"perfect": 0.0, "random": 0.0}
    return check_weights(parts | dict(weights), "behavior", parts)


@lru_cache(maxsize=32)
def _optimal_values(material: str, gamma: float) -> EndgameValues:
    distances = table(material)
    won = distances.white < DRAW
    white = np.where(won, gamma ** (distances.white.astype(float) - 1), 0.0)
    black = np.where(distances.black < DRAW, gamma ** distances.black.astype(float), 0.0)
    return EndgameValues(material, white, black)


@lru_cache(maxsize=32)
def _behavior_values(material: str, perfect: float, random: float, gamma: float) -> EndgameValues:
    positions = space(material)
    after = [_behavior_values(m, perfect, random, gamma).white for m in positions.smaller]
    after.append(np.zeros(1))  # bare kings
    reply_weights = _reply_weights(positions)
    moves = _behavior_matrix(material, perfect, random)
    white = np.zeros(positions.size)
    while True:
        everything = np.concatenate([white, *after])
        black = np.where(table(material).black == 0, 1.0, 0.0)
        for reply, weight in zip(positions.replies.T, reply_weights.T, strict=True):
            black += gamma * weight * everything[reply]
        before = white
        white = moves @ black
        white[~positions.ready] = 0.0
        if np.abs(white - before).max() < TOLERANCE:
            return EndgameValues(material, white, black)


def _reply_weights(positions: EndgameSpace) -> np.ndarray:
    """(N, 8) probabilities of Black's replies; all 0 where it has none."""
    played = positions.replies >= 0
    after = [table(material).white for material in positions.smaller]
    after = np.concatenate([table(positions.material).white, *after, np.array([DRAW])])
    distance = np.where(played, after[positions.replies].astype(np.int16), -1)
    played &= distance == distance.max(axis=1, keepdims=True)
    return played / np.maximum(played.sum(axis=1, keepdims=True), 1)


def _behavior_matrix(material: str, perfect: float, random: float) -> sparse.csr_array:
    """(N, N): how often the behavior policy moves from a position to one with Black to move."""
    positions, distances = space(material), table(material)
    parts = []
    for first in range(0, positions.size, CHUNK):
        index = np.arange(first, min(first + CHUNK, positions.size))
        squares = positions.squares(index)
        movers, targets, legal = white_moves(material, squares)
        legal &= positions.ready[index, None]
        rows, slots = np.nonzero(legal)
        after = positions.index(move_white(squares[rows], movers[slots], targets[rows, slots]))
        best = distances.black[after] == distances.white[index[rows]] - (
            distances.white[index[rows]] < DRAW
        )
        share = random / np.bincount(rows, minlength=len(index))[rows]
        share[best] += perfect / np.bincount(rows[best], minlength=len(index))[rows[best]]
        ends = np.append(0, np.bincount(rows, minlength=len(index)).cumsum())
        shape = (len(index), positions.size)
        parts.append(sparse.csr_array((share, after.astype(np.int32), ends), shape=shape))
    return sparse.vstack(parts, format="csr")
