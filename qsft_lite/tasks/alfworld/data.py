"""Recorded games of a mixture of players."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from datasets import Dataset

from qsft_lite.data.recording import Episodes, record
from qsft_lite.tasks.alfworld.env import MAX_STEPS, ALFWorld
from qsft_lite.tasks.alfworld.players import PLAYERS, ExpertPlayer, play_game
from qsft_lite.tasks.checks import check_weights

# Who plays how many of the games.
BEHAVIOR = {"careless": 0.2, "half_informed": 0.4, "wanderer": 0.4}
BLOCK = 1_000  # games of a file


def generate_alfworld(
    n: int,
    seed: int,
    *,
    behavior: Mapping[str, float] = BEHAVIOR,
    split: Literal["train", "validation", "seen", "unseen"] = "train",
    rooms: str = "all",
    games: str | Path | None = None,
    format: Literal["text", "short"] = "text",
    max_steps: int = MAX_STEPS,
    fumbles: float = 0.4,
    processes: int = 1,
    path: str | Path | None = None,
    shard: tuple[int, int] | None = None,
) -> Dataset:
    """Games of the native engine, each of one player, drawn with the weights of behavior.

    behavior: weights of players, see PLAYERS. split, rooms, games, format and max_steps are those
    of `ALFWorld`; games are drawn evenly. fumbles: how many of the players' slips are commands that
    mostly fail (see `Player`): .4 makes about one command in twelve fail, 0 hardly any. processes,
    path and shard are those of `record`. A game that ran out of steps is not done.
    """
    ExpertPlayer(fumbles=fumbles)  # checks
    shares = check_weights(behavior, "behavior", PLAYERS)
    ALFWorld(split=split, rooms=rooms, games=games, format=format, max_steps=max_steps)  # checks
    settings = {
        "task": "alfworld",
        "behavior": shares,
        "split": split,
        "rooms": rooms,
        "games": None if games is None else str(games),
        "format": format,
        "max_steps": max_steps,
        "fumbles": fumbles,
    }
    play = partial(_play_block, shares, split, rooms, games, format, max_steps, fumbles)
    how = {"processes": processes, "path": path, "shard": shard, "block_size": BLOCK}
    return record(play, n, seed, settings, **how)


def _play_block(
    shares: dict[str, float],
    split: str,
    rooms: str,
    games: str | Path | None,
    format: str,
    max_steps: int,
    fumbles: float,
    n: int,
    seed: np.random.SeedSequence,
) -> Episodes:
    """The episodes of a block."""
    draw_seed, *player_seeds = seed.spawn(1 + len(shares))
    rng = np.random.default_rng(draw_seed)
    players = [
        PLAYERS[name](own, fumbles=fumbles) for name, own in zip(shares, player_seeds, strict=True)
    ]
    source = ALFWorld(split=split, rooms=rooms, games=games).source
    episodes: Episodes = {"text": [], "is_action": [], "reward": [], "done": []}
    for _ in range(n):
        world = source.world(source.names[rng.integers(len(source.names))])
        player = players[rng.choice(len(players), p=list(shares.values()))]
        texts, won = play_game(world, player, format == "short", max_steps)
        is_action = [place % 2 == 1 for place in range(len(texts))]
        episodes["text"].append(texts)
        episodes["is_action"].append(is_action)
        episodes["reward"].append([0.0] * (len(texts) - 2) + [float(won), 0.0])
        episodes["done"].append(won)
    return episodes
