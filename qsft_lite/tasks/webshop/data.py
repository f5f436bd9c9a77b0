"""Recorded visits to the shop."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from datasets import Dataset

from qsft_lite.data.recording import Episodes, record
from qsft_lite.tasks.checks import check_choice, check_weights
from qsft_lite.tasks.webshop.catalog import Catalog
from qsft_lite.tasks.webshop.env import FORMATS, MAX_STEPS, ShopFormat, WebShop
from qsft_lite.tasks.webshop.loading import Goals, load_catalog
from qsft_lite.tasks.webshop.players import PLAYERS

# Shares of the episodes that each player plays.
WEIGHTS = {"human": 0.8, "first hit": 0.1, "random": 0.1}
BLOCK = 1_000  # episodes of a file


def generate_webshop(
    n: int,
    seed: int,
    *,
    weights: Mapping[str, float] = WEIGHTS,
    products: int | str | os.PathLike | None = None,
    goals: Goals | None = None,
    split: str | None = "train",
    format: ShopFormat = "text",
    max_steps: int = MAX_STEPS,
    processes: int = 1,
    path: str | Path | None = None,
    shard: tuple[int, int] | None = None,
) -> Dataset:
    """Visits of scripted players, with goals drawn evenly from a split.

    weights: of `PLAYERS`, of which each episode has one. products, goals, split, format and
    max_steps are those of `WebShop`. processes, path and shard are those of `record`.
    """
    weights = check_weights(weights, "weights", PLAYERS)
    check_choice(format, FORMATS, "format")
    if max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, got {max_steps}")
    if isinstance(products, Catalog):
        raise TypeError("products is a number or a path here: several processes read it")
    catalog = load_catalog(products, goals)
    catalog.split(split)
    settings = {
        "task": "webshop",
        "weights": weights,
        "products": catalog.source,
        "goals": goals,
        "split": split,
        "format": format,
        "max_steps": max_steps,
    }
    options = {"goals": goals, "split": split, "format": format, "max_steps": max_steps}
    play = partial(_play_block, weights, products, options)
    how = {"processes": processes, "path": path, "shard": shard, "block_size": BLOCK}
    return record(play, n, seed, settings, **how)


def _play_block(
    weights: dict[str, float],
    products: int | str | os.PathLike | None,
    options: dict,
    n: int,
    seed: np.random.SeedSequence,
) -> Episodes:
    env = WebShop(products, **options)
    who_seed, goal_seed, *player_seeds = seed.spawn(2 + len(weights))
    who = np.random.default_rng(who_seed).choice(list(weights), size=n, p=list(weights.values()))
    goals = np.random.default_rng(goal_seed).choice(env.drawn, size=n)
    how = {"format": env.format, "max_steps": env.max_steps}
    players = {
        name: PLAYERS[name](env.catalog, player_seed, **how)
        for name, player_seed in zip(weights, player_seeds, strict=True)
    }
    episodes: Episodes = {"text": [], "is_action": [], "reward": [], "done": []}
    for name, goal in zip(who, goals.tolist(), strict=True):
        text, _ = env.reset(options={"goal": goal})
        texts, rewards, history = [text], [0.0], text
        done = truncated = False
        while not (done or truncated):
            [action] = players[name].act([history])
            text, reward, done, truncated, _ = env.step(action)
            texts += [action, text]
            rewards += [reward, 0.0]
            history += action + text
        episodes["text"].append(texts)
        episodes["is_action"].append([place % 2 == 1 for place in range(len(texts))])
        episodes["reward"].append(rewards)
        episodes["done"].append(done)
    return episodes
