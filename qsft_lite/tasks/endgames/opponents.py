"""Who plays Black in endgames: the longest defence from the tables, on a board and on arrays."""

from __future__ import annotations

import chess
import numpy as np

from qsft_lite.tasks.endgames.moves import Moves, left
from qsft_lite.tasks.endgames.tables import DRAW, table
from qsft_lite.tasks.endgames.text import read_board
from qsft_lite.tasks.guessing import random_member


class PerfectDefender:
    """The bare king's longest defence, a draw where there is one; any of equally good moves."""

    def choose(self, board: chess.Board, rng: np.random.Generator) -> chess.Move:
        """See `Opponent.choose`."""
        material, squares = read_board(board)
        moves = list(board.legal_moves)
        after = squares.repeat(len(moves), axis=0)
        after[:, -1] = [move.to_square for move in moves]
        distances = replied_distance(material, after)
        best = np.flatnonzero(distances == distances.max())
        return moves[best[rng.integers(len(best))]]


def replied_distance(material: str, squares: np.ndarray) -> np.ndarray:
    """(N,) White's distance to mate after a king step that may have taken a piece.

    squares: (N, k), the black king on its new square, and so perhaps on that of a white piece.
    """
    distance = table(material).white_distance(squares)
    for piece in range(len(material)):
        rows = np.flatnonzero(squares[:, 1 + piece] == squares[:, -1])
        if len(rows):
            smaller = left(material, piece)
            rest = np.delete(squares[rows], 1 + piece, axis=1)
            distance[rows] = table(smaller).white_distance(rest) if smaller else DRAW
    return distance


class Defender:
    """Black's replies for arrays of positions: "perfect" or "random"."""

    def __init__(self, opponent: str, seed: int | np.random.SeedSequence = 0) -> None:
        self.opponent = opponent
        self.rng = np.random.default_rng(seed)

    def choose(self, material: str, squares: np.ndarray, replies: Moves) -> np.ndarray:
        """(N,) the king step (0 to 7) in each position (N, k); replies is `black_moves` there."""
        targets, legal, _ = replies
        if self.opponent == "random":
            return random_member(legal, self.rng)
        rows, steps = np.nonzero(legal)
        after = squares[rows]
        after[:, -1] = targets[rows, steps]
        distance = np.full(legal.shape, -1)
        distance[rows, steps] = replied_distance(material, after)
        return random_member(legal & (distance == distance.max(axis=1, keepdims=True)), self.rng)
