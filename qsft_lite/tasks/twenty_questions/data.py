"""Recorded games of Twenty Questions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from datasets import Dataset

from qsft_lite.data.recording import Episodes, record
from qsft_lite.tasks.checks import check_weights
from qsft_lite.tasks.guessing import Games, Seed, play_games, to_episodes
from qsft_lite.tasks.twenty_questions.players import PLAYERS
from qsft_lite.tasks.twenty_questions.rules import Thing, TwentyQuestionsRules

# Shares of the games that each player plays: as in LMRL-Gym's data, .31 of them succeed and the
# mean return is -17.3. The deviation of 2.56 that is published with these two cannot be had: if
# .69 of the games score -20, the other .31 must score -11.3 on average, and the deviation is 4.0 at
# least.
WEIGHTS = {"scripted": 0.085, "noisy": 0.26, "random": 0.655}


def play_mixture(
    rules: TwentyQuestionsRules, weights: Mapping[str, float], objects: np.ndarray, seed: Seed
) -> Games:
    """As `play_games`, but each game has one of `PLAYERS`, drawn by weights that sum to 1."""
    rng, *of_players = np.random.default_rng(seed).spawn(1 + len(weights))
    who = rng.choice(len(weights), size=len(objects), p=list(weights.values()))
    games = [np.flatnonzero(who == index) for index in range(len(weights))]
    played = [
        play_games(rules, PLAYERS[name](rules, player_rng), objects[own])
        for name, player_rng, own in zip(weights, of_players, games, strict=True)
    ]
    order = np.concatenate(games).argsort()
    columns = ("secrets", "actions", "answers", "success")
    return Games(*(np.concatenate([getattr(p, c) for p in played])[order] for c in columns))


def generate_twenty_questions(
    n: int,
    seed: int,
    *,
    weights: Mapping[str, float] = WEIGHTS,
    objects: str | Path | Iterable[Thing] | None = None,
    processes: int = 1,
    path: str | Path | None = None,
    shard: tuple[int, int] | None = None,
) -> Dataset:
    """Games of scripted players with objects drawn evenly from the list; the table answers.

    weights: of `PLAYERS`, of which each game has one. processes, path and shard are those of
    `record`.
    """
    weights = check_weights(weights, "weights", PLAYERS)
    rules = TwentyQuestionsRules(objects)
    settings = {"task": "twenty_questions", "weights": weights, "rules": rules.sha256}
    play = partial(_play_block, rules.things, weights)
    return record(play, n, seed, settings, processes=processes, path=path, shard=shard)


def _play_block(
    things: tuple[Thing, ...], weights: dict[str, float], n: int, seed: np.random.SeedSequence
) -> Episodes:
    rules = TwentyQuestionsRules(things)
    object_seed, player_seed = seed.spawn(2)
    secrets = np.random.default_rng(object_seed).integers(len(rules.names), size=n)
    return to_episodes(rules, play_mixture(rules, weights, secrets, player_seed))
