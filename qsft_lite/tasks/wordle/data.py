"""Recorded games of Wordle."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
from datasets import Dataset

from qsft_lite.data.recording import Episodes, record
from qsft_lite.tasks.checks import check_choice
from qsft_lite.tasks.guessing import play_games, to_episodes
from qsft_lite.tasks.wordle.players import PLAYERS
from qsft_lite.tasks.wordle.rules import Rules, WordFormat, WordleRules


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
    shard: tuple[int, int] | None = None,
) -> Dataset:
    """Games of a scripted player with secrets drawn evenly from the word list.

    policy: "mixture" (with probability p any consistent word, else any word, as LMRL-Gym's data),
    or another of `PLAYERS`. processes, path and shard are those of `record`.
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
    return record(play, n, seed, settings, processes=processes, path=path, shard=shard)


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
