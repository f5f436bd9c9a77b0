"""Recorded games of Wordle, as arrays and as trajectories."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from datasets import Dataset

from qsft_lite.data.recording import Episodes, check_choice, record
from qsft_lite.tasks.wordle.players import PLAYERS, Player
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


@dataclass(frozen=True, eq=False)
class WordleGames:
    """N games as arrays.

    secrets: (N,) int64 word indices. guesses: (N, 6) int16 word indices, NO_WORD (-1) after the
    end. feedback: (N, 6) uint8, INVALID (255) after the end.
    """

    secrets: np.ndarray
    guesses: np.ndarray
    feedback: np.ndarray

    @property
    def success(self) -> np.ndarray:
        """(N,) bool: the secret was guessed."""
        return (self.feedback == SOLVED).any(axis=1)

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64 number of guesses."""
        return (self.guesses != NO_WORD).sum(axis=1)

    @property
    def returns(self) -> np.ndarray:
        """(N,) float64 scores in [-6, 0]: minus the number of wrong guesses."""
        return (self.success - self.lengths).astype(np.float64)


def play_games(rules: WordleRules, player: Player, secrets: np.ndarray) -> WordleGames:
    """One game for each secret (N,) of word indices, all at once.

    The quickest way to many games: a million of the mixture player's take well under a minute.
    """
    secrets = np.asarray(secrets, dtype=np.int64)
    guesses = np.full((len(secrets), TRIES), NO_WORD, dtype=np.int16)
    feedback = np.full((len(secrets), TRIES), INVALID, dtype=np.uint8)
    playing = np.arange(len(secrets))
    consistent = np.ones((len(secrets), len(rules.words)), dtype=bool)
    for turn in range(TRIES):
        guess = player.choose(consistent, TRIES - turn)
        answer = rules.table[guess, secrets[playing]]
        guesses[playing, turn] = guess
        feedback[playing, turn] = answer
        going = answer != SOLVED
        playing, guess, answer = playing[going], guess[going], answer[going]
        if not len(playing):
            break
        consistent = consistent[going] & (rules.table[guess] == answer[:, None])
    return WordleGames(secrets, guesses, feedback)


def to_episodes(rules: WordleRules, games: WordleGames) -> Episodes:
    """The games as trajectories: start, guess, feedback, guess, feedback, ..."""
    texts, is_action, rewards = [], [], []
    for guesses, feedback, length in zip(
        games.guesses.tolist(), games.feedback.tolist(), games.lengths.tolist(), strict=True
    ):
        text = [START]
        reward = [0.0]
        for guess, answer in zip(guesses[:length], feedback[:length], strict=True):
            text += (rules.guess_texts[guess], rules.feedback_texts[answer])
            reward += (0.0 if answer == SOLVED else -1.0, 0.0)
        texts.append(text)
        is_action.append([False] + [True, False] * length)
        rewards.append(reward)
    return {
        "text": texts,
        "is_action": is_action,
        "reward": rewards,
        "done": [True] * len(texts),
    }


def generate_wordle(
    n: int,
    seed: int,
    *,
    policy: str = "mixture",
    p: float = 1 / 3,
    rules: Rules = "lmrl",
    word_list: str | Path | Iterable[str] | None = None,
    format: WordFormat = "letters",
    processes: int = 1,
    path: str | Path | None = None,
) -> Dataset:
    """Games of a scripted player with secrets drawn evenly from the word list.

    policy: "mixture" (with probability p any consistent word, else any word, as LMRL-Gym's data),
    or another of `PLAYERS`. processes and path are those of `record`.
    """
    check_choice(policy, PLAYERS, "policy")
    table = WordleRules(rules, word_list, format)
    settings = {
        "task": "wordle",
        "policy": policy,
        "rules": rules,
        "words": table.sha256,
        "format": format,
    }
    player_options = {}
    if policy == "mixture":
        settings["p"] = p
        player_options = {"p": p}
    PLAYERS[policy](table, 0, **player_options)  # bad options fail here, not in a worker
    play = partial(_play_block, table, policy, player_options)
    return record(play, n, seed, settings, processes=processes, path=path)


def _play_block(
    rules: WordleRules,
    policy: str,
    player_options: dict[str, float],
    n: int,
    seed: np.random.SeedSequence,
) -> Episodes:
    secret_seed, player_seed = seed.spawn(2)
    secrets = np.random.default_rng(secret_seed).integers(len(rules.words), size=n)
    player = PLAYERS[policy](rules, player_seed, **player_options)
    return to_episodes(rules, play_games(rules, player, secrets))
