"""Reference players of endgames, for arrays of positions and for texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import chess
import numpy as np

from qsft_lite.tasks.chess.engine import Engine
from qsft_lite.tasks.endgames.env import Endgames
from qsft_lite.tasks.endgames.moves import MATERIALS, Moves, move_white, white_moves
from qsft_lite.tasks.endgames.tables import table
from qsft_lite.tasks.endgames.text import EndgameFormat, fen_of, read_board
from qsft_lite.tasks.endgames.values import Weights, check_weights
from qsft_lite.tasks.guessing import random_member

Seed = int | np.random.SeedSequence

PARTS = ("perfect", "random", "engine")
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


class RandomPlayer(EndgamePlayer):
    """Any legal move."""

    def choose(self, material: str, squares: np.ndarray, moves: Moves) -> np.ndarray:
        """See `EndgamePlayer.choose`."""
        return random_member(moves[2], self.rng)


class PerfectPlayer(EndgamePlayer):
    """Any move of the quickest mate."""

    def choose(self, material: str, squares: np.ndarray, moves: Moves) -> np.ndarray:
        """See `EndgamePlayer.choose`."""
        return random_member(quickest(material, squares, moves), self.rng)


class MixturePlayer(EndgamePlayer):
    """At each move, with given probabilities, a perfect, a random, or an engine's move.

    behavior: weights of "perfect", "random" and "engine". The options are those of `Engine`; it is
    started only if its weight is above 0. Without a limit it is given 10,000 nodes a move.
    """

    def __init__(
        self,
        seed: Seed = 0,
        format: EndgameFormat = "fen",
        behavior: Weights = BEHAVIOR,
        **engine_options: Any,
    ) -> None:
        super().__init__(seed, format)
        self.shares = np.array(check_weights(behavior, PARTS))
        self.engine = None
        if self.shares[2]:
            options = {key: value for key, value in engine_options.items() if value is not None}
            if "milliseconds" not in options:
                options.setdefault("nodes", 10_000)
            self.engine = Engine(**options)

    def choose(self, material: str, squares: np.ndarray, moves: Moves) -> np.ndarray:
        """See `EndgamePlayer.choose`."""
        movers, targets, legal = moves
        part = np.searchsorted(self.shares.cumsum()[:-1], self.rng.random(len(squares)), "right")
        slots = random_member(legal, self.rng)
        rows = np.flatnonzero(part == 0)
        if len(rows):
            best = quickest(material, squares[rows], (movers, targets[rows], legal[rows]))
            slots[rows] = random_member(best, self.rng)
        for row in np.flatnonzero(part == 2):
            board = chess.Board(fen_of(material, squares[row]))
            move = self.engine.choose(board, self.rng)
            fits = (squares[row][movers] == move.from_square) & (targets[row] == move.to_square)
            slots[row] = np.flatnonzero(fits & legal[row])[0]
        return slots

    def close(self) -> None:
        """End the engine's process, if there is one."""
        if self.engine:
            self.engine.close()


PLAYERS: dict[str, type[EndgamePlayer]] = {
    "random": RandomPlayer,
    "perfect": PerfectPlayer,
    "mixture": MixturePlayer,
}


def quickest(material: str, squares: np.ndarray, moves: Moves) -> np.ndarray:
    """(N, M) bool: the moves of the quickest mate."""
    movers, targets, legal = moves
    rows, slots = np.nonzero(legal)
    after = move_white(squares[rows], movers[slots], targets[rows, slots])
    distance = np.full(legal.shape, 999)
    distance[rows, slots] = table(material).black_distance(after)
    return legal & (distance == distance.min(axis=1, keepdims=True))
