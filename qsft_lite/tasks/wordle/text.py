r"""How guesses and feedback are written, in one of three formats.

"letters", that of LMRL-Gym: "c r a n e\n" and "b y g b b\n". "words": "crane\n" and "bygbb\n", one
token each to a word tokenizer. "clues": "crane\n" and "c1b r2y a3g n4b e5b\n", one token for each
letter with its place and color: what "bygbb" says only to a reader who holds the guess beside it.
A transcript starts with "Wordle:\n". An invalid guess is answered by an empty line.
"""

from __future__ import annotations

from typing import Literal

WordFormat = Literal["letters", "words", "clues"]

START = "Wordle:\n"


def write(letters: str, format: WordFormat) -> str:
    """A word, or the colors of its letters, as a line."""
    return (" ".join(letters) if format == "letters" else letters) + "\n"


def write_clues(word: str, colors: str) -> str:
    r"""The feedback to a guess as clues, "c1b r2y a3g n4b e5b\n"."""
    clues = zip(word, range(1, len(word) + 1), colors, strict=True)
    return " ".join(f"{letter}{place}{color}" for letter, place, color in clues) + "\n"


def read(text: str) -> str:
    """The letters of a line, whatever white space is around and between them."""
    return text.strip().replace(" ", "")


def read_colors(answer: str) -> str:
    """The colors of a feedback in any format: what ends its five pieces, or all of its one."""
    pieces = answer.split()
    return "".join(piece[-1] for piece in pieces) if len(pieces) > 1 else read(answer)


def parts(text: str) -> list[tuple[int, int, str]]:
    """Which letter a guess has in which place, and feedback which color; a clue both; else []."""
    letters = read(text)
    if len(letters) == 3 and letters[1].isdigit():
        letter, place, color = letters[0], int(letters[1]) - 1, letters[2]
        return [(0, place, letter), (1, place, color)]
    is_feedback = set(letters) <= set("byg")
    return [(int(is_feedback), *part) for part in enumerate(letters)] if len(letters) == 5 else []
