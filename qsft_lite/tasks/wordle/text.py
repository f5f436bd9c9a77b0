r"""How guesses and feedback are written.

In the format "letters", that of LMRL-Gym, they read "c r a n e\n" and "b y g b b\n"; in "words",
"crane\n" and "bygbb\n", one token each to a word tokenizer. A transcript starts with "Wordle:\n".
An invalid guess is answered by an empty line.
"""

from __future__ import annotations

from typing import Literal

WordFormat = Literal["letters", "words"]

START = "Wordle:\n"


def write(letters: str, format: WordFormat) -> str:
    """A word, or the colors of its letters, as a line."""
    return (" ".join(letters) if format == "letters" else letters) + "\n"


def read(text: str) -> str:
    """The letters of a line, whatever white space is around and between them."""
    return text.strip().replace(" ", "")


def parts(word: str) -> list[tuple[int, int, str]]:
    """Which letter a guess has in which place, and feedback which color; [] for other lines."""
    letters = read(word)
    is_feedback = set(letters) <= set("byg")
    return [(int(is_feedback), *part) for part in enumerate(letters)] if len(letters) == 5 else []
