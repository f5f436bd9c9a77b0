"""Who plays chess: engines, random movers, and any object that chooses moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import chess
import numpy as np

from qsft_lite.tasks.chess.engine import Elo, Engine

# White of the default data plays each at a third of its games; it wins .63 of them, loses .33 and
# returns .29 (6,500 games; LMRL-Gym's data win .60 and return .21).
STRENGTHS: dict[Elo, float] = {"floor": 1, 1500: 1, 1700: 1}


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


class MixedPlayer:
    """The behavior policy: an engine of a strength drawn for each game, and some random moves.

    engine: whose process plays at all strengths, so with a node limit. strengths: probabilities of
    the Elos, "floor" or "full". random: the share of moves that are any legal move.
    """

    def __init__(self, engine: Engine, strengths: Mapping[Elo, float], random: float = 0.0) -> None:
        self.engines = [engine.at(strength) for strength in strengths]
        self.probabilities = list(strengths.values())
        self.random = random
        self.playing = self.engines[0]

    def begin(self, rng: np.random.Generator) -> None:
        """Draw the strength of a game."""
        self.playing = self.engines[rng.choice(len(self.engines), p=self.probabilities)]

    def choose(self, board: chess.Board, rng: np.random.Generator) -> chess.Move:
        """A legal move for the side to move."""
        player = RandomOpponent() if rng.random() < self.random else self.playing
        return player.choose(board, rng)
