"""White of the recorded games: engines of mixed strengths. Nobody knows how to play perfectly."""

from __future__ import annotations

from collections.abc import Mapping

import chess
import numpy as np

from qsft_lite.tasks.chess.engine import Elo, Engine
from qsft_lite.tasks.chess.opponents import RandomOpponent

# White of the default data plays each at a third of its games; it wins .63 of them, loses .33 and
# returns .29 (6,500 games; LMRL-Gym's data win .60 and return .21).
STRENGTHS: dict[Elo, float] = {"floor": 1, 1500: 1, 1700: 1}


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


def check_strengths(strengths: Mapping[Elo, float]) -> dict[Elo, float]:
    """The probability of each strength; ValueError for weights below 0, all 0, or none."""
    weights = np.array(list(strengths.values()), dtype=float)
    if not len(weights) or not (weights >= 0).all() or not 0 < weights.sum() < np.inf:
        raise ValueError(
            f"strengths needs weights of at least 0, and one above, got {dict(strengths)}"
        )
    return dict(zip(strengths, (weights / weights.sum()).tolist(), strict=True))
