r"""Boards and moves as words, one token each: the formats "pieces" of endgames and of whole games.

In both a man is a word, "Qd5 ", Black's are lower-case, and Black's king ends the line. A move of
an endgame is SAN without its signs, "Qd8\n". A move of a whole game is two words, the man, as the
board shows it, and where it goes: "Ng1 f3\n", "Pe2 e4\n", "Pe7 e8Q\n", and castling as "Ke1 g1\n".
Which man moves is one choice, and where it goes the next: what a network learns of a knight on g1
holds for all of its moves.
"""

from __future__ import annotations

from functools import cache
from itertools import combinations

import chess

ORDER = "KQRBNPqrbnpk"


def pieces_text(board: chess.Board) -> str:
    r"""A board as words: "Ke1 Qd5 kh8\n", White's king first, Black's last, queens before rooks."""
    men = sorted(board.piece_map().items(), key=lambda man: (ORDER.index(man[1].symbol()), man[0]))
    return " ".join(man.symbol() + chess.square_name(square) for square, man in men) + "\n"


def endgame_words() -> tuple[str, ...]:
    """Every word of an endgame, with the space or newline that ends it."""
    squares = chess.SQUARE_NAMES
    men = [man + square for man in "KQR" for square in squares]
    rooks = [f"R{file}{square}" for file in "abcdefgh" for square in squares]
    rooks += [f"R{rank}{square}" for rank in "12345678" for square in squares if rank != square[1]]
    words = [man + " " for man in men] + ["k" + square + "\n" for square in squares]
    return (*words, *(move + "\n" for move in men + rooks))


def game_text(board: chess.Board) -> str:
    r"""A board of a whole game, White to move: "KQ e6 Ke1 ... kg8\n".

    First who may castle, as in a FEN, and the square of a capture en passant; each only if there is
    one. Counters and earlier positions are left out.
    """
    castling, square = board.fen().split(" ")[2:4]
    rights = [word + " " for word in (castling, square) if word != "-"]
    return "".join(rights) + pieces_text(board)


def read_game_text(text: str) -> chess.Board:
    """The board of a line of `game_text`; ValueError, naming the word, where it is none."""
    board = chess.Board(None)
    for word in text.removesuffix("\n").split(" "):
        try:
            if word in _rights():
                board.set_castling_fen(word)
            elif word in chess.SQUARE_NAMES:
                board.ep_square = chess.parse_square(word)
            else:
                board.set_piece_at(chess.parse_square(word[1:]), chess.Piece.from_symbol(word[:1]))
        except ValueError as error:
            raise ValueError(f"{word!r} is no piece and its square") from error
    return board


def game_move(board: chess.Board, move: chess.Move) -> str:
    r"""A legal move of a whole game as words: "Ng1 f3\n"."""
    man = board.piece_at(move.from_square).symbol()
    promoted = chess.piece_symbol(move.promotion).upper() if move.promotion else ""
    start, end = chess.square_name(move.from_square), chess.square_name(move.to_square)
    return f"{man}{start} {end}{promoted}\n"


def read_game_move(board: chess.Board, text: str) -> chess.Move | None:
    """The legal move that `game_move` writes so; None for anything else. White space is nothing."""
    words = text.strip() + "\n"
    return next((move for move in board.legal_moves if game_move(board, move) == words), None)


@cache
def game_words() -> tuple[str, ...]:
    """Every word of a whole game with White's legal moves, with the space or newline at its end."""
    squares = chess.SQUARE_NAMES
    passing = [square for square in squares if square[1] == "6"]
    men = [man + square for man in ORDER for square in squares]
    states = [word + " " for word in (*_rights(), *passing, *men)]
    kings = ["k" + square for square in squares]
    promotions = [square + new for square in squares if square[1] == "8" for new in "QRBN"]
    return (*states, *(word + "\n" for word in (*kings, *squares, *promotions)))


@cache
def _rights() -> tuple[str, ...]:
    return tuple("".join(some) for count in range(1, 5) for some in combinations("KQkq", count))
