"""Who plays Black: an engine (see `Engine`), a random mover, or any object that chooses moves."""

from __future__ import annotations

from typing import Protocol

import chess
import numpy as np


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
