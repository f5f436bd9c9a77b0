r"""Twenty Questions as text: the player asks, an oracle answers "Yes." or "No.".

The reward is -1 for each question and 0 for the guess that is right, which ends the game; so a game
scores between -20 and 0. This is LMRL-Gym's task (Abdulhai et al., 2023) and its text:
"Questions:\n", then a question and its newline, then "Yes.\n" or "No.\n". There a fine-tuned
language model answers; here a table made by hand does, or a language model of one's own.

A guess wins when it names the whole object. Were only its last word compared, seven of LMRL-Gym's
objects, such as "soccer ball", could not be guessed.
"""

from __future__ import annotations

import string
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import gymnasium
from gymnasium.spaces import Text

from qsft_lite.tasks.checks import check_action, reset_option
from qsft_lite.tasks.twenty_questions.rules import (
    NO,
    START,
    TURNS,
    UNKNOWN,
    YES,
    Phrasing,
    Thing,
    TwentyQuestionsRules,
)


class Oracle(Protocol):
    """What answers the questions that are not guesses."""

    def answer(self, name: str, question: str) -> bool:
        """Whether the answer to a question about the object is yes."""


class TwentyQuestions(gymnasium.Env):
    r"""One game: text in, text out.

    objects: see `read_objects`. phrasing: "one" or "many" texts a question in `texts`; the oracle
    understands all of them either way. oracle: what answers questions that are not guesses, by
    default the table, which answers "No." to a question that it does not understand. Whether a
    guess is right is never the oracle's to say.

    reset returns "Questions:\n" and info {"object": name}; options {"object": name} fixes the
    object, otherwise it is drawn uniformly. step takes a question, whatever white space is around
    it, and returns the answer; info has "success" (the guess is right) and "valid" (the table knows
    the question).
    """

    metadata = {"render_modes": []}

    def __init__(
        self,
        objects: str | Path | Iterable[Thing] | None = None,
        phrasing: Phrasing = "one",
        oracle: Oracle | None = None,
    ) -> None:
        self.rules = TwentyQuestionsRules(objects, phrasing)
        self.oracle = oracle
        self.action_space = Text(min_length=1, max_length=200, charset=string.printable)
        self.observation_space = Text(min_length=1, max_length=len(START), charset=START + YES + NO)
        self._object: int | None = None
        self._turns = 0

    @property
    def texts(self) -> tuple[str, ...]:
        """Every segment a transcript can have (with known questions), as a tokenizer needs them.

        A tokenizer of lines (`models.line_tokenizer`) makes each of them one token.
        """
        return self.rules.texts

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start a game; ValueError for an object that is not in the list or an unknown option."""
        name = reset_option(options, "object")
        index = None if name is None else self.rules.object_index(name)
        super().reset(seed=seed)
        if index is None:
            index = int(self.np_random.integers(len(self.rules.names)))
        self._object = index
        self._turns = 0
        return START, {"object": self.rules.names[self._object]}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Ask; ResetNeeded when no game is under way, TypeError for what is no text."""
        if self._object is None:
            raise gymnasium.error.ResetNeeded("the game is over or not started: call reset first")
        check_action(action)
        question = self.rules.read_question(action)
        guess = self.rules.is_guess(question)
        if guess or self.oracle is None:
            yes = self.rules.answer(question, self._object)
        else:
            yes = self.oracle.answer(self.rules.names[self._object], action.strip())
        self._turns += 1
        success = guess and yes
        terminated = success or self._turns == TURNS
        if terminated:
            self._object = None
        info = {"success": success, "valid": question != UNKNOWN}
        return YES if yes else NO, 0.0 if success else -1.0, terminated, False, info
