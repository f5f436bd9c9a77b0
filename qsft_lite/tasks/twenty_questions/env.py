r"""Twenty Questions as text: the player asks, an oracle answers "Yes." or "No.".

A game scores between -20 and 0. This is LMRL-Gym's task (Abdulhai et al., 2023) and its text. There
a fine-tuned language model answers; here a table made by hand does, or a model of one's own. A
guess wins when it names the whole object: were only its last word compared, seven of LMRL-Gym's
objects, such as "soccer ball", could not be guessed.
"""

from __future__ import annotations

import string
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from gymnasium.spaces import Text

from qsft_lite.tasks.guessing import GuessingGame
from qsft_lite.tasks.twenty_questions.rules import (
    NO,
    START,
    UNKNOWN,
    YES,
    Thing,
    TwentyQuestionsRules,
)


class Oracle(Protocol):
    """What answers the questions that are not guesses."""

    def answer(self, name: str, question: str) -> bool:
        """Whether the answer to a question about the object is yes."""


class TwentyQuestions(GuessingGame):
    r"""One game: text in, text out.

    objects: see `read_objects`. oracle: what answers questions that are not guesses, by default the
    table, which answers "No." to a question that it does not understand. Whether a guess is right
    is never the oracle's to say.

    reset returns "Questions:\n" and info {"object": name}; options {"object": name} fixes the
    object, otherwise it is drawn uniformly. step takes a question, whatever white space is around
    it, and returns the answer; info has "success" (the guess is right) and "valid" (the table knows
    the question).
    """

    option = "object"
    action_space = Text(max_length=200, charset=string.printable)
    observation_space = Text(max_length=len(START), charset=START + YES + NO)

    def __init__(
        self, objects: str | Path | Iterable[Thing] | None = None, oracle: Oracle | None = None
    ) -> None:
        rules = TwentyQuestionsRules(objects)
        super().__init__(rules, rules.names)
        self.oracle = oracle

    @property
    def texts(self) -> tuple[str, ...]:
        """Every segment a transcript can have (with known questions), as a tokenizer needs them.

        A tokenizer of lines (`models.line_tokenizer`) makes each of them one token.
        """
        return START, YES, NO, *self.rules.question_texts

    def answer(self, action: str, secret: int) -> tuple[str, bool, bool]:
        """See `GuessingGame.answer`."""
        question = self.rules.read_question(action)
        guess = self.rules.is_guess(question)
        if guess or self.oracle is None:
            yes = self.rules.answer(question, secret)
        else:
            yes = self.oracle.answer(self.names[secret], action.strip())
        return YES if yes else NO, guess and yes, question != UNKNOWN
