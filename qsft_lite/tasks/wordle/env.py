"""Wordle as text.

Six tries; the reward is -1 for each guess that is not the secret and 0 for the one that is, so a
game scores between -6 and 0. A guess outside the word list uses up a try and is answered by an
empty line. This is LMRL-Gym's task (Abdulhai et al., 2023) and, with format="letters", its text.
LMRL-Gym draws the secret anew each turn among the words that are still consistent; that is the
same game as one secret drawn at the start, which is what is done here.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.spaces import Text

from qsft_lite.tasks.checks import check_action, reset_option
from qsft_lite.tasks.wordle.rules import (
    INVALID,
    NO_WORD,
    SOLVED,
    START,
    TRIES,
    Rules,
    WordFormat,
    WordleRules,
)

LETTERS_A_TO_Z = "abcdefghijklmnopqrstuvwxyz"


class Wordle(gymnasium.Env):
    r"""One game: text in, text out.

    reset returns "Wordle:\n" and info {"secret": word}; options {"secret": word} fixes the secret,
    otherwise it is drawn uniformly. step takes a guess, with or without white space, and
    returns the feedback; info has "success" (the guess is the secret) and "valid" (it is in the
    word list). See `WordleRules` for the options.
    """

    metadata = {"render_modes": []}

    def __init__(
        self,
        rules: Rules = "lmrl",
        word_list: str | Path | Iterable[str] | None = None,
        format: WordFormat = "letters",
    ) -> None:
        self.rules = WordleRules(rules, word_list, format)
        self.action_space, self.observation_space = _text_spaces()
        self._secret: int | None = None
        self._tries = 0

    @property
    def texts(self) -> tuple[str, ...]:
        """Every segment a transcript can have (with valid guesses), as a tokenizer needs them."""
        return START, "\n", *self.rules.guess_texts, *self.rules.feedback_texts

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start a game; ValueError for a secret outside the word list or an unknown option."""
        secret = reset_option(options, "secret")
        index = None if secret is None else self.rules.word_index(secret)
        super().reset(seed=seed)
        if index is None:
            index = int(self.np_random.integers(len(self.rules.words)))
        self._secret = index
        self._tries = 0
        return START, {"secret": self.rules.words[self._secret]}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Guess; ResetNeeded when no game is under way, TypeError for what is no text."""
        if self._secret is None:
            raise gymnasium.error.ResetNeeded("the game is over or not started: call reset first")
        check_action(action)
        guess = self.rules.read_guess(action)
        valid = guess != NO_WORD
        feedback = int(self.rules.table[guess, self._secret]) if valid else INVALID
        self._tries += 1
        success = feedback == SOLVED
        terminated = success or self._tries == TRIES
        if terminated:
            self._secret = None
        reward = 0.0 if success else -1.0
        info = {"success": success, "valid": valid}
        return self.rules.feedback_text(feedback), reward, terminated, False, info


def _text_spaces() -> tuple[Text, Text]:
    """Spaces of actions and observations. Any text is a legal guess, if not a valid one."""
    action = Text(min_length=1, max_length=10, charset=LETTERS_A_TO_Z + " \n")
    observation = Text(min_length=1, max_length=10, charset=START + "byg \n")
    return action, observation
