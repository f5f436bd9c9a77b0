"""Endgames as text: those of whole games' positions that are solved exactly."""

from __future__ import annotations

from typing import Any, ClassVar

import chess
import numpy as np
from gymnasium.spaces import Text

from qsft_lite.tasks.checks import check_choice
from qsft_lite.tasks.chess.env import ChessGame
from qsft_lite.tasks.chess.players import Opponent
from qsft_lite.tasks.chess.text import ACTION_CHARACTERS, pieces_text
from qsft_lite.tasks.endgames.moves import MATERIALS
from qsft_lite.tasks.endgames.opponents import PerfectDefender
from qsft_lite.tasks.endgames.space import SYMMETRIES, view_of
from qsft_lite.tasks.endgames.starts import start_positions
from qsft_lite.tasks.endgames.text import EndgameFormat, endgame_words, fen_of, read_board


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

    formats = ("fen", "pieces", "mirrored")
    opponents: ClassVar = {"perfect": PerfectDefender, **ChessGame.opponents}

    def __init__(
        self,
        opponent: str | Opponent = "perfect",
        *,
        materials: tuple[str, ...] = MATERIALS,
        format: EndgameFormat = "fen",
        **options: Any,
    ) -> None:
        super().__init__(opponent, format=format, **options)
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


def check_materials(materials: tuple[str, ...]) -> tuple[str, ...]:
    """Materials as a tuple; ValueError for one that is none, or for none at all."""
    materials = (materials,) if isinstance(materials, str) else tuple(materials)
    for material in materials:
        check_choice(material, MATERIALS, "material")
    if not materials:
        raise ValueError(f"materials must name one or more of {', '.join(MATERIALS)}")
    return materials
