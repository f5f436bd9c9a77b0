r"""How boards and moves of whole games are written.

In the format "fen", that of LMRL-Gym, a state is a FEN and an action SAN, both with a space after
each character: "Q h 5 +\n". In "pieces" a man is a word, "Qd5 ", Black's are lower-case, and
Black's king ends the line. A move is two words, the man, as the board shows it, and where it goes:
"Ng1 f3\n", "Pe2 e4\n", "Pe7 e8Q\n", and castling as "Ke1 g1\n". Which man moves is one choice, and
where it goes the next: what a network learns of a knight on g1 holds for all of its moves.
"""

from __future__ import annotations

from functools import cache
from itertools import combinations
from typing import Literal

import chess

ORDER = "KQRBNPqrbnpk"
RIGHTS = ["".join(some) for count in range(1, 5) for some in combinations("KQkq", count)]
STATE_CHARACTERS = "".join(sorted(set("pnbrqkPNBRQKwabcdefgh0123456789/- ")))
ACTION_CHARACTERS = "".join(sorted(set("NBRQKabcdefgh12345678xO-=+#")))

BoardFormat = Literal["fen", "pieces"]


def spaced(text: str) -> str:
    r"""The text with a space between characters and a newline at the end, as in LMRL-Gym."""
    return " ".join(text) + "\n"


def unspaced(text: str) -> str:
    """The text that `spaced` wrote."""
    return text.removesuffix("\n")[::2]


def read_move(board: chess.Board, text: str) -> chess.Move | None:
    """The legal move that a text means; None for anything else, ambiguous SAN included."""
    try:
        move = board.parse_san(text.strip().replace(" ", ""))
    except ValueError:
        return None
    return move or None  # a null move is no move


def pieces_text(board: chess.Board) -> str:
    r"""A board as words: "Ke1 Qd5 kh8\n", White's king first, Black's last, queens before rooks."""
    men = sorted(board.piece_map().items(), key=lambda man: (ORDER.index(man[1].symbol()), man[0]))
    return " ".join(man.symbol() + chess.square_name(square) for square, man in men) + "\n"


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
            if word in RIGHTS:
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
    states = [word + " " for word in (*RIGHTS, *passing, *men)]
    kings = ["k" + square for square in squares]
    promotions = [square + new for square in squares if square[1] == "8" for new in "QRBN"]
    return (*states, *(word + "\n" for word in (*kings, *squares, *promotions)))


def parts(word: str) -> list[tuple[str, str | int, int]]:
    """What a word has in common with others: a man, a square's file and rank, a promotion."""
    text = word[:-1]
    man = text[0] if text[1:] in chess.SQUARE_NAMES else ""
    square, promotion = text[len(man) :][:2], text[len(man) :][2:]
    if square not in chess.SQUARE_NAMES:  # who may castle
        return [("word", word, 0)]
    file, rank = ord(square[0]) - ord("a"), int(square[1]) - 1
    kind = ("kind", man + promotion + word[-1], 0)
    return [kind, (man, "file", file), (man, "rank", rank), ("square", square, 0)]
