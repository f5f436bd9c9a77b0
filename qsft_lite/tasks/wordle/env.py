"""Wordle as text: one game as a Gymnasium environment, and many in lockstep.

Six tries; the reward is -1 for each guess that is not the secret and 0 for the one that is, so a
game scores between -6 and 0. A guess outside the word list uses up a try and is answered by an
empty line. This is LMRL-Gym's task (Abdulhai et al., 2023) and, with format="letters", its text.
LMRL-Gym draws the secret anew each turn among the words that are still consistent; that is the
same game as one secret drawn at the start, which is what is done here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from reprlib import repr as brief
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Text, Tuple

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


class WordleVector(gymnasium.vector.VectorEnv):
    """num_envs games in lockstep by table look-up, each as in `Wordle`.

    Observations are tuples of num_envs texts; rewards (num_envs,) float64, terminated and truncated
    (num_envs,) bool. As in Gymnasium's own vector environments, the step after a game has ended
    ignores its action and starts its next game (autoreset mode NEXT_STEP). reset's options
    {"secret": [word, ...]} fixes the secrets of the first games.
    """

    metadata = {
        "render_modes": [],
        "autoreset_mode": gymnasium.vector.AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int,
        rules: Rules = "lmrl",
        word_list: str | Path | Iterable[str] | None = None,
        format: WordFormat = "letters",
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        self.num_envs = num_envs
        self.rules = WordleRules(rules, word_list, format)
        self.single_action_space, self.single_observation_space = _text_spaces()
        self.action_space = Tuple((self.single_action_space,) * num_envs)
        self.observation_space = Tuple((self.single_observation_space,) * num_envs)
        self._guess_index = _GuessIndex(self.rules)
        # The texts of all feedbacks, with the two other observations behind them.
        self._observations = np.full(257, "\n", dtype=object)
        self._observations[: SOLVED + 1] = self.rules.feedback_texts
        self._observations[_STARTED] = START
        self._secrets = np.zeros(num_envs, dtype=np.int64)
        self._tries = np.zeros(num_envs, dtype=np.int64)
        self._ended: np.ndarray | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[str, ...], dict[str, Any]]:
        """Start all games."""
        secrets = reset_option(options, "secret")
        indices = None
        if secrets is not None:
            if isinstance(secrets, str) or not isinstance(secrets, Sequence | np.ndarray):
                raise TypeError(f'options["secret"] must be a list of words, got {brief(secrets)}')
            if len(secrets) != self.num_envs:
                raise ValueError(f'options["secret"] must hold {self.num_envs} words')
            indices = np.array([self.rules.word_index(word) for word in secrets])
        super().reset(seed=seed)
        if indices is None:
            indices = self.np_random.integers(len(self.rules.words), size=self.num_envs)
        self._secrets = indices
        self._tries = np.zeros(self.num_envs, dtype=np.int64)
        self._ended = np.zeros(self.num_envs, dtype=bool)
        return (START,) * self.num_envs, {}

    def step(
        self, actions: Sequence[str]
    ) -> tuple[tuple[str, ...], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Guess in every game; info has "success" and "valid", both (num_envs,) bool."""
        if self._ended is None:
            raise gymnasium.error.ResetNeeded("call reset first")
        if isinstance(actions, str) or not isinstance(actions, Sequence | np.ndarray):
            raise TypeError(f"actions must be a list of texts, one a game, got {brief(actions)}")
        if len(actions) != self.num_envs:
            raise ValueError(f"expected {self.num_envs} actions, got {len(actions)}")
        for action in actions:
            check_action(action)
        guesses = np.fromiter(
            map(self._guess_index.__getitem__, actions), dtype=np.int64, count=self.num_envs
        )
        valid = guesses != NO_WORD
        feedback = self.rules.table[guesses, self._secrets].astype(np.int64)
        feedback[~valid] = INVALID
        starting = self._ended
        self._tries += 1
        rewards = np.where(feedback == SOLVED, 0.0, -1.0)
        if starting.any():
            feedback[starting] = _STARTED
            rewards[starting] = 0
            self._tries[starting] = 0
            fresh = self.np_random.integers(len(self.rules.words), size=int(starting.sum()))
            self._secrets[starting] = fresh
        success = feedback == SOLVED
        terminated = success | (self._tries == TRIES)
        self._ended = terminated
        observations = tuple(self._observations[feedback].tolist())
        info = {"success": success, "valid": valid | starting}
        return observations, rewards, terminated, np.zeros_like(terminated), info


_STARTED = 256  # the "feedback" of a step that starts a game


class _GuessIndex(dict):
    """From an action text to its word's index; texts in another spelling are read one by one."""

    def __init__(self, rules: WordleRules) -> None:
        super().__init__({text: index for index, text in enumerate(rules.guess_texts)})
        self.rules = rules

    def __missing__(self, text: str) -> int:
        return self.rules.read_guess(text)


def _text_spaces() -> tuple[Text, Text]:
    """Spaces of actions and observations. Any text is a legal guess, if not a valid one."""
    action = Text(min_length=1, max_length=10, charset=LETTERS_A_TO_Z + " \n")
    observation = Text(min_length=1, max_length=10, charset=START + "byg \n")
    return action, observation
