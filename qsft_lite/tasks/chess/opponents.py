"""Who plays Black: the perfect defender of solved endgames, a random mover, or an engine."""

from __future__ import annotations

from typing import Any, Protocol

import chess
import numpy as np

from qsft_lite.data.recording import check_choice
from qsft_lite.tasks.chess.engine import Engine
from qsft_lite.tasks.endgames.moves import MATERIALS, left
from qsft_lite.tasks.endgames.tables import DRAW, table

OPPONENTS = ("perfect", "random", "engine")
PIECES = {"Q": chess.QUEEN, "R": chess.ROOK}


class Opponent(Protocol):
    """Whatever answers the agent's moves."""

    def choose(self, board: chess.Board, rng: np.random.Generator) -> chess.Move:
        """A legal move for the side to move; the random numbers are the game's."""


class RandomOpponent:
    """Any legal move."""

    def choose(self, board: chess.Board, rng: np.random.Generator) -> chess.Move:
        """See `Opponent.choose`."""
        moves = list(board.legal_moves)
        return moves[rng.integers(len(moves))]


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


def make_opponent(opponent: str | Opponent, **engine_options: Any) -> Opponent:
    """The opponent of a name, or the object that is one. The options are those of `Engine`."""
    if not isinstance(opponent, str):
        return opponent
    check_choice(opponent, OPPONENTS, "opponent")
    if opponent == "engine":
        engine_options = {k: v for k, v in engine_options.items() if v is not None}
        return Engine(**engine_options)
    return PerfectDefender() if opponent == "perfect" else RandomOpponent()


def read_board(board: chess.Board) -> tuple[str, np.ndarray]:
    """The material of an endgame and its squares (1, k); material "" for bare kings.

    Raises ValueError, saying why, for a board that is none of the solved endgames.
    """
    symbols = {"Q": board.pieces(chess.QUEEN, True), "R": board.pieces(chess.ROOK, True)}
    material = "".join(piece * len(squares) for piece, squares in symbols.items())
    if material not in ("", *MATERIALS) or chess.popcount(board.occupied) != 2 + len(material):
        raise ValueError(
            f"{board.board_fen()!r} is not one of the endgames: White has its king and one of "
            f"{', '.join(MATERIALS)}, Black its king alone"
        )
    if board.castling_rights:
        raise ValueError(f"{board.fen()!r} has castling rights: in endgames nobody castles")
    pieces = [square for squares in symbols.values() for square in squares]
    return material, np.array([[board.king(True), *pieces, board.king(False)]])
