r"""How positions and moves of endgames are written, from boards and from arrays of squares.

In the format "fen" as in whole games. In "pieces" a state is three or four words, "Ke1 Qd5 kh8\n",
and an action is one, SAN without its signs: "Qd8\n". "mirrored" is "pieces" with the board turned
and mirrored until the black king stands in the triangle a1-d1-d4.
"""

from __future__ import annotations

import re
from typing import Literal

import chess
import numpy as np
from chess import SQUARE_NAMES

from qsft_lite.tasks.chess.text import spaced
from qsft_lite.tasks.endgames.moves import MATERIALS, Moves
from qsft_lite.tasks.endgames.space import SYMMETRIES, view_of

EndgameFormat = Literal["fen", "pieces", "mirrored"]


def endgame_words() -> tuple[str, ...]:
    """Every word of an endgame, with the space or newline that ends it."""
    squares = chess.SQUARE_NAMES
    men = [man + square for man in "KQR" for square in squares]
    rooks = [f"R{file}{square}" for file in "abcdefgh" for square in squares]
    rooks += [f"R{rank}{square}" for rank in "12345678" for square in squares if rank != square[1]]
    words = [man + " " for man in men] + ["k" + square + "\n" for square in squares]
    return (*words, *(move + "\n" for move in men + rooks))


def parts(word: str) -> list[tuple[str, str, int]]:
    """A man, its file and its rank; of a queen the diagonals, of a move whether it is one."""
    man, square, end = word[0], word[-3:-1], word[-1]
    file, rank = ord(square[0]) - ord("a"), int(square[1])
    lines = [(man + end, "man", 0), (man, "file", file), (man, "rank", rank)]
    if man == "Q":
        lines += [(man, "up", rank - file), (man, "down", rank + file)]
    if len(word) == 5:  # which rook
        lines.append((man, "from", ord(word[1])))
    return lines


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


def fen_of(material: str, squares: np.ndarray) -> str:
    """The FEN of a position with White to move, as at the start of a game."""
    return f"{placement(material, squares.tolist())} w - - 0 1"


def placement(material: str, squares: list[int]) -> str:
    """The first field of a FEN: what stands where."""
    board = ["."] * 64
    for square, man in zip(squares, f"K{material}k", strict=True):
        board[square] = man
    ranks = "/".join("".join(board[first : first + 8]) for first in range(56, -1, -8))
    return re.sub(r"\.+", lambda empty: str(len(empty[0])), ranks)


def _fen_text(material: str, squares: list[int], turn: str, clock: int, number: int) -> str:
    return spaced(f"{placement(material, squares)} {turn} - - {clock} {number}")


def _pieces_text(material: str, squares: list[int], turn: str, clock: int, number: int) -> str:
    if material == "RR":
        squares = [squares[0], *sorted(squares[1:3]), squares[3]]
    men = zip(f"K{material}k", squares, strict=True)
    return " ".join(man + SQUARE_NAMES[square] for man, square in men) + "\n"


def _mirrored_text(material: str, squares: list[int], turn: str, clock: int, number: int) -> str:
    view = view_of(material, np.array([squares]))[0]
    return _pieces_text(material, SYMMETRIES[view, squares].tolist(), turn, clock, number)


STATE_TEXTS = {"fen": _fen_text, "pieces": _pieces_text, "mirrored": _mirrored_text}


def sans(
    material: str, squares: np.ndarray, moves: Moves, slots: np.ndarray, mirrored: bool = False
) -> list[str]:
    """The moves of the slots (N,) in SAN, without what tells check and mate, as they are shown."""
    movers, targets, legal = moves
    if mirrored:
        view = view_of(material, squares)[:, None]
        squares, targets = SYMMETRIES[view, squares], SYMMETRIES[view, targets]
    every = np.arange(len(squares))
    mover, target = movers[slots], targets[every, slots]
    start = squares[every, mover]
    symbols = "K" + material
    texts = [symbols[column] for column in mover.tolist()]
    if material == "RR":
        other = (movers != 0) & (movers != mover[:, None])
        both = (mover > 0) & (other & legal & (targets == target[:, None])).any(axis=1)
        beside = squares[every, np.where(mover == 1, 2, 1)]
        for i in np.flatnonzero(both).tolist():
            name = SQUARE_NAMES[start[i]]
            texts[i] += name[1] if beside[i] % 8 == start[i] % 8 else name[0]
    return [san + SQUARE_NAMES[square] for san, square in zip(texts, target.tolist(), strict=True)]
