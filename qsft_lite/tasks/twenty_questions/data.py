"""Recorded games of Twenty Questions, as arrays and as trajectories."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from datasets import Dataset

from qsft_lite.data.recording import Episodes, check_choice, record
from qsft_lite.tasks.twenty_questions.players import PLAYERS, Player, Seed
from qsft_lite.tasks.twenty_questions.rules import (
    NO,
    START,
    TURNS,
    UNKNOWN,
    YES,
    Phrasing,
    Thing,
    TwentyQuestionsRules,
    read_objects,
)

# Shares of the games that each player plays: as in LMRL-Gym's data, .31 of them succeed and the
# mean return is -17.3. The deviation of 2.56 that is published with these two cannot be had: if
# .69 of the games score -20, the other .31 must score -11.3 on average, and the deviation is 4.0 at
# least.
WEIGHTS = {"scripted": 0.085, "noisy": 0.26, "random": 0.655}


@dataclass(frozen=True, eq=False)
class TwentyQuestionsGames:
    """N games as arrays.

    objects: (N,) int64 indices. questions: (N, 20) int16 indices, UNKNOWN (-1) after the end.
    answers: (N, 20) bool. success: (N,) bool, the object was guessed.
    """

    objects: np.ndarray
    questions: np.ndarray
    answers: np.ndarray
    success: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64 number of questions."""
        return (self.questions != UNKNOWN).sum(axis=1)

    @property
    def returns(self) -> np.ndarray:
        """(N,) float64 scores in [-20, 0]: minus the number of questions but the right guess."""
        return (self.success - self.lengths).astype(np.float64)


def play_games(
    rules: TwentyQuestionsRules, player: Player, objects: np.ndarray
) -> TwentyQuestionsGames:
    """One game for each of objects (N,), indices, all at once; the table answers."""
    objects = np.asarray(objects, dtype=np.int64)
    questions = np.full((len(objects), TURNS), UNKNOWN, dtype=np.int16)
    answers = np.zeros((len(objects), TURNS), dtype=bool)
    success = np.zeros(len(objects), dtype=bool)
    playing = np.arange(len(objects))
    consistent = np.ones((len(objects), len(rules.names)), dtype=bool)
    for turn in range(TURNS):
        question = player.choose(consistent, TURNS - turn)
        answer = rules.table[question, objects[playing]]
        questions[playing, turn] = question
        answers[playing, turn] = answer
        won = answer & rules.is_guess(question)
        success[playing[won]] = True
        playing, question, answer = playing[~won], question[~won], answer[~won]
        if not len(playing):
            break
        consistent = consistent[~won] & (rules.table[question] == answer[:, None])
    return TwentyQuestionsGames(objects, questions, answers, success)


def play_mixture(
    rules: TwentyQuestionsRules, weights: Mapping[str, float], objects: np.ndarray, seed: Seed
) -> TwentyQuestionsGames:
    """As `play_games`, but each game has a player of its own, drawn by the weights of `PLAYERS`."""
    choice_seed, *player_seeds = _sequence(seed).spawn(1 + len(weights))
    shares = np.array(list(weights.values()), dtype=np.float64)
    rng = np.random.default_rng(choice_seed)
    who = rng.choice(len(weights), size=len(objects), p=shares / shares.sum())
    questions = np.full((len(objects), TURNS), UNKNOWN, dtype=np.int16)
    answers = np.zeros((len(objects), TURNS), dtype=bool)
    success = np.zeros(len(objects), dtype=bool)
    for index, (name, player_seed) in enumerate(zip(weights, player_seeds, strict=True)):
        own = np.flatnonzero(who == index)
        games = play_games(rules, PLAYERS[name](rules, player_seed), objects[own])
        questions[own], answers[own], success[own] = games.questions, games.answers, games.success
    return TwentyQuestionsGames(objects, questions, answers, success)


def _sequence(seed: Seed) -> np.random.SeedSequence:
    return seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)


def to_episodes(
    rules: TwentyQuestionsRules, games: TwentyQuestionsGames, seed: Seed = 0
) -> Episodes:
    """The games as trajectories: start, question, answer, question, answer, ...

    seed: of the phrasings, where the rules have many.
    """
    forms = np.array([len(texts) for texts in rules.phrasings])[games.questions]
    drawn = (np.random.default_rng(seed).random(forms.shape) * forms).astype(np.int64)
    texts, is_action, rewards = [], [], []
    for questions, form, answers, length, success in zip(
        games.questions.tolist(),
        drawn.tolist(),
        games.answers.tolist(),
        games.lengths.tolist(),
        games.success.tolist(),
        strict=True,
    ):
        text = [START]
        for turn in range(length):
            text += (rules.phrasings[questions[turn]][form[turn]], YES if answers[turn] else NO)
        reward = [0.0] + [-1.0, 0.0] * length
        if success:
            reward[-2] = 0.0
        texts.append(text)
        is_action.append([False] + [True, False] * length)
        rewards.append(reward)
    return {
        "text": texts,
        "is_action": is_action,
        "reward": rewards,
        "done": [True] * len(texts),
    }


def generate_twenty_questions(
    n: int,
    seed: int,
    *,
    policy: str = "mixture",
    weights: Mapping[str, float] | None = None,
    objects: str | Path | Iterable[Thing] | None = None,
    phrasing: Phrasing = "one",
    processes: int = 1,
    path: str | Path | None = None,
) -> Dataset:
    """Games of scripted players with objects drawn evenly from the list; the table answers.

    policy: "mixture" (each game has one of the players, drawn by weights, by default WEIGHTS), or
    one of `PLAYERS`. phrasing: "one" text a question, or "many", drawn evenly. processes and path
    are those of `record`.
    """
    check_choice(policy, {"mixture", *PLAYERS}, "policy")
    if policy != "mixture":
        if weights is not None:
            raise ValueError(f"weights are those of the policy 'mixture', not of {policy!r}")
        weights = {policy: 1.0}
    weights = _check_weights(WEIGHTS if weights is None else weights)
    things = read_objects(objects)
    rules = TwentyQuestionsRules(things, phrasing)
    settings = {
        "task": "twenty_questions",
        "policy": policy,
        "weights": weights,
        "rules": rules.sha256,
        "phrasing": phrasing,
    }
    play = partial(_play_block, things, phrasing, weights)
    return record(play, n, seed, settings, processes=processes, path=path)


def _check_weights(weights: Mapping[str, float]) -> dict[str, float]:
    for name in weights:
        check_choice(name, PLAYERS, "player")
    values = list(weights.values())
    if not values or not np.isfinite(values).all() or min(values) < 0 or sum(values) <= 0:
        raise ValueError(f"weights must be at least 0 and not all 0, got {dict(weights)}")
    return {name: float(weight) for name, weight in weights.items()}


def _play_block(
    things: tuple[Thing, ...],
    phrasing: Phrasing,
    weights: dict[str, float],
    n: int,
    seed: np.random.SeedSequence,
) -> Episodes:
    rules = TwentyQuestionsRules(things, phrasing)
    object_seed, player_seed, phrasing_seed = seed.spawn(3)
    secrets = np.random.default_rng(object_seed).integers(len(rules.names), size=n)
    games = play_mixture(rules, weights, secrets, player_seed)
    return to_episodes(rules, games, phrasing_seed)
