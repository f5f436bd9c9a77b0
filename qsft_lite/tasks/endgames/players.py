"""Reference players of endgames, White and Black, for arrays of positions and for texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import chess
import numpy as np

from qsft_lite.tasks.chess.engine import Engine
from qsft_lite.tasks.chess.env import BoardFormat, Endgames
from qsft_lite.tasks.chess.opponents import read_board, replied_distance
from qsft_lite.tasks.endgames.moves import MATERIALS, black_moves, move_white, white_moves
from qsft_lite.tasks.endgames.starts import fen_of, placement
from qsft_lite.tasks.endgames.tables import table
from qsft_lite.tasks.endgames.values import Weights, check_weights

Seed = int | np.random.SeedSequence
Moves = tuple[np.ndarray, np.ndarray, np.ndarray]  # what `white_moves` returns

PARTS = ("perfect", "random", "engine")
# Behavior of the default data: against the perfect defender it wins about as often as the games of
# LMRL-Gym's data did (.59).
BEHAVIOR = {"perfect": 0.58, "random": 0.42}


class EndgamePlayer:
    """What all players share: `choose` plays arrays of positions, and `act` texts on top of it."""

    def __init__(self, seed: Seed = 0, format: BoardFormat = "fen") -> None:
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
        return any_true(moves[2], self.rng)


class PerfectPlayer(EndgamePlayer):
    """Any move of the quickest mate."""

    def choose(self, material: str, squares: np.ndarray, moves: Moves) -> np.ndarray:
        """See `EndgamePlayer.choose`."""
        return any_true(quickest(material, squares, moves), self.rng)


class MixturePlayer(EndgamePlayer):
    """At each move, with given probabilities, a perfect, a random, or an engine's move.

    behavior: weights of "perfect", "random" and "engine". The options are those of `Engine`; it is
    started only if its weight is above 0. Without a limit it is given 10,000 nodes a move.
    """

    def __init__(
        self,
        seed: Seed = 0,
        format: BoardFormat = "fen",
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
        slots = any_true(legal, self.rng)
        rows = np.flatnonzero(part == 0)
        if len(rows):
            best = quickest(material, squares[rows], (movers, targets[rows], legal[rows]))
            slots[rows] = any_true(best, self.rng)
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


class Defender:
    """Black's replies for arrays of positions: "perfect", "random", or an engine."""

    def __init__(self, opponent: str | Engine, seed: Seed = 0) -> None:
        self.opponent = opponent
        self.rng = np.random.default_rng(seed)

    def choose(self, material: str, squares: np.ndarray, replies: Moves) -> np.ndarray:
        """(N,) the king step (0 to 7) in each position (N, k); replies is `black_moves` there."""
        targets, legal, _ = replies
        if isinstance(self.opponent, Engine):
            return np.array([self._engine_step(material, row) for row in squares], dtype=int)
        if self.opponent == "random":
            return any_true(legal, self.rng)
        rows, steps = np.nonzero(legal)
        after = squares[rows]
        after[:, -1] = targets[rows, steps]
        distance = np.full(legal.shape, -1)
        distance[rows, steps] = replied_distance(material, after)
        return any_true(legal & (distance == distance.max(axis=1, keepdims=True)), self.rng)

    def _engine_step(self, material: str, squares: np.ndarray) -> int:
        board = chess.Board(f"{placement(material, squares.tolist())} b - - 0 1")
        move = self.opponent.choose(board, self.rng)
        return int(np.flatnonzero(black_moves(material, squares[None])[0][0] == move.to_square)[0])


def any_true(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each row of mask (N, M) bool the column of one of its True entries, drawn evenly."""
    wanted = 1 + (rng.random(len(mask)) * mask.sum(axis=1)).astype(np.int64)
    return (mask.cumsum(axis=1, dtype=np.int32) >= wanted[:, None]).argmax(axis=1)
