"""Reference players of endgames, for arrays of positions and for texts."""

from __future__ import annotations

from collections.abc import Sequence

import chess
import numpy as np

from qsft_lite.tasks.endgames.env import Endgames
from qsft_lite.tasks.endgames.moves import MATERIALS, Moves, move_white, white_moves
from qsft_lite.tasks.endgames.tables import table
from qsft_lite.tasks.endgames.text import EndgameFormat, read_board
from qsft_lite.tasks.endgames.values import Weights, check_behavior
from qsft_lite.tasks.guessing import Seed, random_member

# Behavior of the default data: against the perfect defender it wins about as often as the games of
# LMRL-Gym's data did (.59).
BEHAVIOR = {"perfect": 0.58, "random": 0.42}


class EndgamePlayer:
    """What all players share: `choose` plays arrays of positions, and `act` texts on top of it."""

    def __init__(self, seed: Seed = 0, format: EndgameFormat = "fen") -> None:
        self.rng = np.random.default_rng(seed)
        self._reader = Endgames("random", format=format)

    def choose(self, material: str, squares: np.ndarray, moves: Moves) -> np.ndarray:
        """(N,) the move slot played in each position (N, k) with White to move."""
        raise NotImplementedError

    def act(self, histories: Sequence[str]) -> list[str]:
        """The next action text of each transcript, of which only the last line counts."""
        boards = [self._reader.read_state(history) for history in histories]
        read = [read_board(board) for board in boards]
        texts = [""] * len(boards)
        for material in MATERIALS:
            rows = [row for row, (found, _) in enumerate(read) if found == material]
            if not rows:
                continue
            squares = np.concatenate([read[row][1] for row in rows])
            moves = white_moves(material, squares)
            slots = self.choose(material, squares, moves)
            for i, (row, slot) in enumerate(zip(rows, slots, strict=True)):
                move = chess.Move(squares[i, moves[0][slot]], moves[1][i, slot])
                texts[row] = self._reader.action_text(boards[row], move)
        return texts


class PerfectPlayer(EndgamePlayer):
    """Any move of the quickest mate."""

    def choose(self, material: str, squares: np.ndarray, moves: Moves) -> np.ndarray:
        """See `EndgamePlayer.choose`."""
        return random_member(quickest(material, squares, moves), self.rng)


class MixturePlayer(EndgamePlayer):
    """At each move a perfect or a random one; behavior: weights of "perfect" and "random"."""

    def __init__(
        self, seed: Seed = 0, format: EndgameFormat = "fen", behavior: Weights = BEHAVIOR
    ) -> None:
        super().__init__(seed, format)
        self.p_perfect = check_behavior(behavior)["perfect"]

    def choose(self, material: str, squares: np.ndarray, moves: Moves) -> np.ndarray:
        """See `EndgamePlayer.choose`."""
        movers, targets, legal = moves
        rows = np.flatnonzero(self.rng.random(len(squares)) < self.p_perfect)
        slots = random_member(legal, self.rng)
        if len(rows):
            best = quickest(material, squares[rows], (movers, targets[rows], legal[rows]))
            slots[rows] = random_member(best, self.rng)
        return slots


def quickest(material: str, squares: np.ndarray, moves: Moves) -> np.ndarray:
    """(N, M) bool: the moves of the quickest mate."""
    movers, targets, legal = moves
    rows, slots = np.nonzero(legal)
    after = move_white(squares[rows], movers[slots], targets[rows, slots])
    distance = np.full(legal.shape, 999)
    distance[rows, slots] = table(material).black_distance(after)
    return legal & (distance == distance.min(axis=1, keepdims=True))
