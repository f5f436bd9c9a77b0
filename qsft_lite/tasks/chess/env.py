r"""Chess as text: the agent is White, and every text is LMRL-Gym's.

A state is a FEN, an action a move in SAN, both with a space after each character and a newline at
the end: "Q h 5 +\n". +1 for a win, -1 for a loss, 0 for everything else; an illegal move is -1, and
the same position is shown again. The rules are those of the package chess.
"""

from __future__ import annotations

import copy
from pathlib import Path
from reprlib import repr as brief
from typing import Any, Literal

import chess
import gymnasium
import numpy as np
from gymnasium.spaces import Text

from qsft_lite.data.recording import check_choice
from qsft_lite.tasks.checks import check_action, reset_option
from qsft_lite.tasks.chess.engine import Elo
from qsft_lite.tasks.chess.opponents import Opponent, make_opponent, read_board
from qsft_lite.tasks.chess.text import (
    endgame_words,
    game_move,
    game_text,
    game_words,
    pieces_text,
    read_game_move,
    read_game_text,
)
from qsft_lite.tasks.endgames.moves import MATERIALS
from qsft_lite.tasks.endgames.space import SYMMETRIES, view_of
from qsft_lite.tasks.endgames.starts import fen_of, start_positions

MAX_MOVES = 400
STATE_CHARACTERS = "".join(sorted(set("pnbrqkPNBRQKwabcdefgh0123456789/- ")))
ACTION_CHARACTERS = "".join(sorted(set("NBRQKabcdefgh12345678xO-=+#")))

BoardFormat = Literal["fen", "pieces", "mirrored"]


def spaced(text: str) -> str:
    r"""The text with a space between characters and a newline at the end, as in LMRL-Gym."""
    return " ".join(text) + "\n"


def unspaced(text: str) -> str:
    """The text that `spaced` wrote."""
    return text.removesuffix("\n")[::2]


class ChessGame(gymnasium.Env):
    """A game of chess against an opponent: text in, text out.

    opponent: "engine", "random", or an object with choose(board, rng) -> chess.Move. engine, elo,
    milliseconds, nodes and timeout are those of `Engine`: by default Stockfish at the least
    strength that it offers, 100 ms a move, as in LMRL-Gym; with nodes games are reproducible.
    max_moves: of the agent, illegal ones included; then the game is cut off (truncated).
    format: "fen", or "pieces", a word for each man and two for a move, see `chess_words`.

    A game ends by checkmate, stalemate, insufficient material, and without anybody's claim by
    fivefold repetition and after 75 moves without a capture or a pawn's move.

    reset returns the position and info {"position": FEN}; options {"position": FEN} fixes it,
    otherwise it is the initial one. step takes SAN, with or without white space, and returns the
    position after the opponent's reply. info has "position", "success" (White has mated),
    "valid" (the move was legal) and "result" ("1-0", "0-1", "1/2-1/2"; "*" before the end).

    close ends the engine's process; so does the end of the last copy, and of Python.
    """

    metadata = {"render_modes": []}
    task = "chess"
    formats = ("fen", "pieces")

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
        if opponent == "perfect" and self.task == "chess":
            raise ValueError("a perfect defender is known in endgames only: see 'endgames'")
        check_choice(format, self.formats, "format")
        self.max_moves = max_moves
        self.format = format
        self.opponent = make_opponent(
            opponent,
            engine=engine,
            elo=elo,
            milliseconds=milliseconds,
            nodes=nodes,
            timeout=timeout,
        )
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


class Endgames(ChessGame):
    r"""Mate the bare king with a queen, a rook, a queen and a rook, or two rooks.

    As `ChessGame`, with another default opponent, "perfect": the longest defence, from the exact
    tables. Without options["position"] the game starts from any position of one of `materials`,
    White to move and Black not in check, none of the held-out ones among them.

    format: "fen", or "pieces", which takes three or four tokens of a word tokenizer a state and one
    an action: "Ke1 Qd5 kh8\n" and "Qd8\n" (SAN without its + and #). It leaves out the counters
    and, at the end, whose turn it is. "mirrored" is the same, with the board turned and mirrored
    (there are no pawns) until the black king stands in the triangle a1-d1-d4; actions are read in
    the view that was shown.
    """

    task = "endgames"
    formats = ("fen", "pieces", "mirrored")

    def __init__(
        self,
        opponent: str | Opponent = "perfect",
        *,
        materials: tuple[str, ...] = MATERIALS,
        format: BoardFormat = "fen",
        engine: str | Path | None = None,
        elo: Elo = "floor",
        milliseconds: int | None = None,
        nodes: int | None = None,
        timeout: float = 10.0,
        max_moves: int = MAX_MOVES,
    ) -> None:
        super().__init__(
            opponent,
            format=format,
            engine=engine,
            elo=elo,
            milliseconds=milliseconds,
            nodes=nodes,
            timeout=timeout,
            max_moves=max_moves,
        )
        self.materials = check_materials(materials)
        if format != "fen":
            self.action_space = Text(max_length=8, charset=ACTION_CHARACTERS + " \n")

    @property
    def texts(self) -> tuple[str, ...]:
        """Every word, or texts with every character, of a transcript with legal moves."""
        return super().texts if self.format == "fen" else endgame_words()

    def draw_position(self) -> str:
        """See `ChessGame.draw_position`."""
        material = self.materials[self.np_random.integers(len(self.materials))]
        return fen_of(material, start_positions(material, 1, self.np_random)[0])

    def read_position(self, position: str) -> chess.Board:
        """See `ChessGame.read_position`."""
        board = super().read_position(position)
        read_board(board)
        return board

    def state_text(self, board: chess.Board) -> str:
        """See `ChessGame.state_text`."""
        return super().state_text(board) if self.format == "fen" else pieces_text(self.shown(board))

    def shown(self, board: chess.Board) -> chess.Board:
        """The board as the agent sees it."""
        return _mirrored(board, _view(board)) if self.format == "mirrored" else board

    def action_text(self, board: chess.Board, move: chess.Move) -> str:
        """See `ChessGame.action_text`."""
        if self.format == "fen":
            return super().action_text(board, move)
        if self.format == "mirrored":
            view = SYMMETRIES[_view(board)]
            board, move = self.shown(board), _moved(move, view)
        return board.san(move).rstrip("+#") + "\n"

    def read_action(self, board: chess.Board, action: str) -> chess.Move | None:
        """See `ChessGame.read_action`; the action is of the board as the agent sees it."""
        move = super().read_action(self.shown(board), action)
        if move is None or self.format != "mirrored":
            return move
        return _moved(move, np.argsort(SYMMETRIES[_view(board)]))


def _view(board: chess.Board) -> int:
    """Which of SYMMETRIES the format "mirrored" shows."""
    material, squares = read_board(board)
    return int(view_of(material, squares)[0])


def _mirrored(board: chess.Board, view: int) -> chess.Board:
    """The board under one of SYMMETRIES."""
    other = chess.Board(None)
    other.turn = board.turn
    for square, piece in board.piece_map().items():
        other.set_piece_at(int(SYMMETRIES[view, square]), piece)
    return other


def _moved(move: chess.Move, squares: np.ndarray) -> chess.Move:
    """The move with its squares (64,) renamed; there are no promotions."""
    return chess.Move(int(squares[move.from_square]), int(squares[move.to_square]))


def read_move(board: chess.Board, text: str) -> chess.Move | None:
    """The legal move that a text means; None for anything else, ambiguous SAN included."""
    try:
        move = board.parse_san(text.strip().replace(" ", ""))
    except ValueError:
        return None
    return move or None  # a null move is no move


def check_materials(materials: tuple[str, ...]) -> tuple[str, ...]:
    """Materials as a tuple; ValueError for one that is none, or for none at all."""
    materials = (materials,) if isinstance(materials, str) else tuple(materials)
    for material in materials:
        check_choice(material, MATERIALS, "material")
    if not materials:
        raise ValueError(f"materials must name one or more of {', '.join(MATERIALS)}")
    return materials
