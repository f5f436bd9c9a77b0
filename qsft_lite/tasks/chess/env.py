r"""Chess as text: the agent is White, and every text is LMRL-Gym's.

A state is a FEN, an action a move in SAN, both with a space after each character and a newline at
the end: "Q h 5 +\n". +1 for a win, -1 for a loss, 0 for everything else; an illegal move is -1, and
the same position is shown again. The rules are those of the package chess.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from reprlib import repr as brief
from typing import Any, ClassVar

import chess
import gymnasium
from gymnasium.spaces import Text

from qsft_lite.tasks.checks import check_action, check_choice, reset_option
from qsft_lite.tasks.chess.engine import Elo, Engine
from qsft_lite.tasks.chess.players import Opponent, RandomOpponent
from qsft_lite.tasks.chess.text import (
    ACTION_CHARACTERS,
    STATE_CHARACTERS,
    BoardFormat,
    game_move,
    game_text,
    game_words,
    read_game_move,
    read_game_text,
    read_move,
    spaced,
    unspaced,
)

MAX_MOVES = 400


class ChessGame(gymnasium.Env):
    """A game of chess against an opponent: text in, text out.

    opponent: "engine", "random", or an object with choose(board, rng) -> chess.Move. engine, elo,
    milliseconds, nodes and timeout are those of `Engine`: by default Stockfish at the least
    strength that it offers, 100 ms a move, as in LMRL-Gym; with nodes games are reproducible.
    max_moves: of the agent, illegal ones included; then the game is cut off (truncated).
    format: "fen", or "pieces", a word for each man and two for a move, see text.py.

    A game ends by checkmate, stalemate, insufficient material, and without anybody's claim by
    fivefold repetition and after 75 moves without a capture or a pawn's move.

    reset returns the position and info {"position": FEN}; options {"position": FEN} fixes it,
    otherwise it is the initial one. step takes SAN, with or without white space, and returns the
    position after the opponent's reply. info has "position", "success" (White has mated),
    "valid" (the move was legal) and "result" ("1-0", "0-1", "1/2-1/2"; "*" before the end).

    close ends the engine's process; so does the end of the last copy, and of Python.
    """

    metadata = {"render_modes": []}
    formats: ClassVar[tuple[str, ...]] = ("fen", "pieces")
    opponents: ClassVar[dict[str, Callable[..., Opponent]]] = {
        "engine": Engine,
        "random": RandomOpponent,
    }

    def __init__(
        self,
        opponent: str | Opponent = "engine",
        *,
        format: BoardFormat = "fen",
        engine: str | Path | None = None,
        elo: Elo = "floor",
        milliseconds: int | None = None,
        nodes: int | None = None,
        timeout: float = 10.0,
        max_moves: int = MAX_MOVES,
    ) -> None:
        if max_moves < 1:
            raise ValueError(f"max_moves must be at least 1, got {max_moves}")
        check_choice(format, self.formats, "format")
        self.max_moves = max_moves
        self.format = format
        if isinstance(opponent, str):
            check_choice(opponent, self.opponents, "opponent")
            limits = {"milliseconds": milliseconds, "nodes": nodes, "timeout": timeout}
            options = {"engine": engine, "elo": elo, **limits} if opponent == "engine" else {}
            opponent = self.opponents[opponent](**options)
        self.opponent = opponent
        names = "P" if format == "pieces" else ""
        self.action_space = Text(max_length=15, charset=ACTION_CHARACTERS + names + " \n")
        self.observation_space = Text(max_length=200, charset=STATE_CHARACTERS + "\n")
        self.board: chess.Board | None = None
        self._moves = 0

    @property
    def texts(self) -> tuple[str, ...]:
        """Texts with every character of a transcript, or every word, as a tokenizer needs them."""
        if self.format == "pieces":
            return game_words()
        return spaced(STATE_CHARACTERS), spaced(ACTION_CHARACTERS)

    def clone(self) -> ChessGame:
        """Another game with the same options, opponent (and engine's process) included."""
        other = copy.copy(self)
        other.board = None
        other._np_random = None
        return other

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start a game; ValueError for a position that cannot be played, or an unknown option."""
        position = reset_option(options, "position")
        board = None if position is None else self.read_position(position)
        super().reset(seed=seed)
        self.board = self.read_position(self.draw_position()) if board is None else board
        self._moves = 0
        return self.state_text(self.board), {"position": self.board.fen()}

    def draw_position(self) -> str:
        """The FEN that a game starts from."""
        return chess.STARTING_FEN

    def read_position(self, position: str) -> chess.Board:
        """The board of a FEN; ValueError, saying why, when White cannot play on from there."""
        try:
            board = chess.Board(position)
        except (ValueError, AttributeError, TypeError) as error:
            raise ValueError(f"{brief(position)} is not a FEN: {str(error)[:200]}") from error
        if not board.is_valid():
            raise ValueError(f"{position!r} is no position of chess: {board.status()!r}")
        if board.turn != chess.WHITE:
            raise ValueError(f"{position!r} has Black to move, but the agent is White")
        if board.is_game_over():
            raise ValueError(f"{position!r} is over already: {board.result()}")
        return board

    def state_text(self, board: chess.Board) -> str:
        """A position as the agent sees it."""
        return spaced(board.fen()) if self.format == "fen" else game_text(board)

    def read_state(self, text: str) -> chess.Board:
        """The board that the last line of a transcript shows; ValueError when it shows none."""
        line = text.removesuffix("\n").rpartition("\n")[2]
        return chess.Board(unspaced(line)) if self.format == "fen" else read_game_text(line)

    def action_text(self, board: chess.Board, move: chess.Move) -> str:
        """A legal move as the agent writes it."""
        return spaced(board.san(move)) if self.format == "fen" else game_move(board, move)

    def read_action(self, board: chess.Board, action: str) -> chess.Move | None:
        """The legal move that an action means; None for anything else."""
        move = read_game_move(board, action) if self.format == "pieces" else None
        return move or read_move(board, action)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Move; ResetNeeded when no game is under way, TypeError for what is no text."""
        board = self.board
        if board is None:
            raise gymnasium.error.ResetNeeded("the game is over or not started: call reset first")
        check_action(action)
        move = self.read_action(board, action)
        if move:
            after = board.copy()
            after.push(move)
            if not after.is_game_over():
                after.push(self.opponent.choose(after, self.np_random))
            # Only now, so that the game is as it was where the opponent has failed.
            self.board = board = after
        self._moves += 1
        outcome = board.outcome()
        terminated = outcome is not None
        truncated = not terminated and self._moves >= self.max_moves
        result = outcome.result() if outcome else "*"
        reward = {"1-0": 1.0, "0-1": -1.0}.get(result, 0.0) if move else -1.0
        info = {
            "position": board.fen(),
            "success": result == "1-0",
            "valid": move is not None,
            "result": result,
        }
        if terminated or truncated:
            self.board = None
        return self.state_text(board), reward, terminated, truncated, info

    def close(self) -> None:
        """End the engine's process, if there is one."""
        if hasattr(self.opponent, "close"):
            self.opponent.close()
