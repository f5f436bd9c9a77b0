"""Wordle as text.

A game scores between -6 and 0. A guess outside the word list uses up a try and is answered by an
empty line. This is LMRL-Gym's task (Abdulhai et al., 2023) and, with format="letters", its text.
There the secret is drawn anew each turn among the words that are still consistent: the same game as
one secret drawn at the start.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from string import ascii_lowercase

from gymnasium.spaces import Text

from qsft_lite.tasks.guessing import GuessingGame
from qsft_lite.tasks.wordle.rules import NO_WORD, SOLVED, START, Rules, WordFormat, WordleRules


class Wordle(GuessingGame):
    r"""One game: text in, text out.

    reset returns "Wordle:\n" and info {"secret": word}; options {"secret": word} fixes the secret,
    otherwise it is drawn uniformly. step takes a guess, with or without white space, and
    returns the feedback; info has "success" (the guess is the secret) and "valid" (it is in the
    word list). See `WordleRules` for the options.
    """

    option = "secret"
    # Any text is a legal guess, if not a valid one.
    action_space = Text(max_length=10, charset=ascii_lowercase + " \n")
    observation_space = Text(max_length=20, charset=START + ascii_lowercase + "12345 \n")

    def __init__(
        self,
        rules: Rules = "lmrl",
        word_list: str | Path | Iterable[str] | None = None,
        format: WordFormat = "letters",
    ) -> None:
        rules = WordleRules(rules, word_list, format)
        super().__init__(rules, rules.words)

    @property
    def texts(self) -> tuple[str, ...]:
        """What a transcript can hold (with valid guesses), as a tokenizer needs it."""
        return START, "\n", *self.rules.guess_texts, *self.rules.answer_texts

    def answer(self, action: str, secret: int) -> tuple[str, bool, bool]:
        """See `GuessingGame.answer`."""
        guess = self.rules.read_guess(action)
        if guess == NO_WORD:
            return "\n", False, False
        feedback = int(self.rules.table[guess, secret])
        return self.rules.answer_text(guess, feedback), feedback == SOLVED, True
