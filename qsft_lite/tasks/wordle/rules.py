"""Wordle in tables: words, feedback and which words are consistent, all as numpy arrays.

W is the number of words, the same list for guesses and secrets. A word is its index in the list. A
feedback is one number in [0, 243): five digits to base 3, the first letter's is the highest; 0 is
"b" (not in the secret), 1 is "y" (elsewhere in it), 2 is "g" (in its place).
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable
from functools import cached_property, lru_cache
from importlib.resources import files
from itertools import product
from pathlib import Path
from reprlib import repr as brief
from typing import Literal

import numpy as np

from qsft_lite.files import read_lines
from qsft_lite.tasks.checks import check_choice
from qsft_lite.tasks.guessing import Rules as GuessingRules
from qsft_lite.tasks.wordle.text import (
    START,
    WordFormat,
    read,
    read_colors,
    write,
    write_clues,
)

Rules = Literal["lmrl", "standard"]

LETTERS = 5
TRIES = 6
SOLVED = 3**LETTERS - 1  # "ggggg"
INVALID = 255  # the feedback of a guess that is not in the word list
NO_WORD = -1  # its index
FEEDBACK = tuple("".join(colors) for colors in product("byg", repeat=LETTERS))


def read_words(word_list: str | Path | Iterable[str] | None = None) -> tuple[str, ...]:
    """The words of a file (one a line) or of a sequence; the shipped list when None.

    Raises ValueError, naming file and line (or position), for a word that is not five letters a-z
    or comes twice, for an empty list, and for a file that is not UTF-8.
    """
    if word_list is None:
        word_list = files("qsft_lite.tasks.wordle") / "words" / "common.txt"
    if isinstance(word_list, str):
        word_list = Path(word_list)
    if hasattr(word_list, "read_text"):
        name = str(word_list)
        words = tuple(read_lines(word_list))
    else:
        name = "word_list"
        words = tuple(word_list)
    first_line: dict[str, int] = {}
    for line, word in enumerate(words, start=1):
        if not isinstance(word, str) or not re.fullmatch(f"[a-z]{{{LETTERS}}}", word):
            raise ValueError(f"{name}:{line}: {brief(word)} is not a word of five letters a-z")
        if word in first_line:
            raise ValueError(f"{name}:{line}: {word!r} is in line {first_line[word]} already")
        first_line[word] = line
    if not words:
        raise ValueError(f"{name} has no words")
    return words


def feedback_table(words: tuple[str, ...], rules: Rules) -> np.ndarray:
    """(W, W) uint8 feedback of each guess (row) for each secret (column).

    lmrl: a letter is yellow whenever it is anywhere in the secret. standard: each letter of the
    secret makes at most one letter of the guess green or yellow, greens first, then from the left.
    """
    check_choice(rules, ("lmrl", "standard"), "rules")
    letters = np.array([list(word.encode()) for word in words], dtype=np.uint8)
    guess, secret = letters[:, None, :], letters[None, :, :]
    green = guess == secret
    yellow = np.zeros_like(green)
    if rules == "lmrl":
        for i in range(LETTERS):
            yellow[..., i] = (guess[..., i : i + 1] == secret).any(axis=-1)
    else:
        taken = green.copy()  # letters of the secret that have colored one of the guess
        for i in range(LETTERS):
            open_letter = ~green[..., i]
            for j in range(LETTERS):
                match = open_letter & ~taken[..., j] & (guess[..., i] == secret[..., j])
                yellow[..., i] |= match
                taken[..., j] |= match
                open_letter &= ~match
    digits = np.where(green, 2, yellow).astype(np.uint8)
    return (digits * np.array([81, 27, 9, 3, 1], dtype=np.uint8)).sum(axis=-1, dtype=np.uint8)


class WordleRules(GuessingRules):
    """A word list with its feedback table and the text of every guess and feedback.

    words: tuple of W words. table: (W, W) uint8, feedback of guess (row) for secret (column).
    guess_texts: W actions; answer_text gives the text of a feedback to one of them; text.py says
    how both are written.
    """

    start = START
    turns = TRIES

    def __init__(
        self,
        rules: Rules = "lmrl",
        word_list: str | Path | Iterable[str] | None = None,
        format: WordFormat = "letters",
    ) -> None:
        check_choice(format, ("letters", "words", "clues"), "format")
        self.rules = rules
        self.format = format
        self.words = read_words(word_list)
        self.table = _feedback_table(self.words, rules)
        self.action_texts = self.guess_texts = tuple(write(word, format) for word in self.words)

    @cached_property
    def index(self) -> dict[str, int]:
        """From a word to its index."""
        return {word: index for index, word in enumerate(self.words)}

    @cached_property
    def sha256(self) -> str:
        """Hash of the word list, one word a line: what a recorded result should name."""
        return hashlib.sha256("".join(f"{word}\n" for word in self.words).encode()).hexdigest()

    def secret_index(self, word: str) -> int:
        """The index of a word; ValueError with the closest words when it is not in the list."""
        if not isinstance(word, str):
            raise TypeError(f"a secret is a word, got {brief(word)}")
        if word in self.index:
            return self.index[word]
        close = ", ".join(difflib.get_close_matches(word, self.words)) or "none"
        raise ValueError(f"{brief(word)} is not in the word list; close to it: {close}")

    def read_guess(self, text: str) -> int:
        """The word an action text means, NO_WORD when it is none of the list.

        White space around it and spaces in it may be missing or there, as in LMRL-Gym.
        """
        return self.index.get(read(text), NO_WORD)

    @cached_property
    def answer_texts(self) -> tuple[str, ...]:
        """Texts whose tokens all answers are made of: the 243, or of clues three for each word."""
        if self.format != "clues":
            return tuple(write(colors, self.format) for colors in FEEDBACK)
        return tuple(write_clues(word, color * LETTERS) for word in self.words for color in "byg")

    def answer_text(self, action: int, answer: int) -> str:
        """See `qsft_lite.tasks.guessing.Rules.answer_text`."""
        if self.format == "clues":
            return write_clues(self.words[action], FEEDBACK[answer])
        return super().answer_text(action, answer)

    def wins(self, guesses: np.ndarray, feedback: np.ndarray) -> np.ndarray:
        """(N,) bool: the guess is the secret."""
        return feedback == SOLVED

    def read_turn(self, action: str, answer: str) -> tuple[int, int] | None:
        """See `qsft_lite.tasks.guessing.Rules.read_turn`."""
        guess = self.read_guess(action)
        if guess == NO_WORD:
            return None if read(answer) else (NO_WORD, INVALID)
        feedback = _FEEDBACK_INDEX.get(read_colors(answer))
        if feedback is None or read(self.answer_text(guess, feedback)) != read(answer):
            return None
        return guess, feedback

    def consistent(self, turns: Iterable[tuple[int, int]]) -> np.ndarray:
        """(W,) bool: the words that would have given all these feedbacks, as secrets."""
        mask = np.ones(len(self.words), dtype=bool)
        for guess, feedback in turns:
            if feedback != INVALID:
                mask &= self.table[guess] == feedback
        return mask


_FEEDBACK_INDEX = {colors: index for index, colors in enumerate(FEEDBACK)}
_feedback_table = lru_cache(maxsize=4)(feedback_table)
