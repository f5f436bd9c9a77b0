"""What a study will cost, before it starts: tokens, steps, memory and hours.

Nothing is looked up: a few steps of each kind of training are run, on a few games, with rows and
batches of the full size, and a few games are played.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from typing import Any

import torch
from transformers import TrainerCallback

from qsft_lite.baselines import METHODS, TrainedMethod
from qsft_lite.baselines.choosing import CLONING_GRID, VALUE_GRID
from qsft_lite.evaluate import evaluate
from qsft_lite.results import peak_memory_mib
from qsft_lite.study.rows import CLONING
from qsft_lite.study.run import Study
from qsft_lite.study.task import TEST_SEED, Task

__all__ = ["estimate"]

STEPS = 4  # of which the first, which warms up, is not timed
SAMPLE = 64  # games


class _Clock(TrainerCallback):
    """Seconds of each step."""

    def __init__(self):
        self.seconds: list[float] = []

    def on_step_begin(self, args, state, control, **others):
        self._started = time.perf_counter()

    def on_step_end(self, args, state, control, **others):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self._started)


def estimate(study: Study) -> dict[str, Any]:
    """What a study will cost on this machine, for all its seeds.

    Returns:
        "rows": one each method, with its steps, tokens (rows times their length), seconds a step
        and hours of training; "hours", of training and play together, where play is counted as of
        an untrained policy, whose games are the longest; "memory_mib", the most that the steps
        took, of the GPU if there is one, else of this process; "weights".
    """
    settings = study.settings
    few = dataclasses.replace(
        settings,
        games=min(settings.games, SAMPLE),
        value_games=min(settings.value_games, SAMPLE),
    )
    task: Task = type(study.of_seed(0))(few, 0)
    tokens_a_game = sum(map(len, task.episodes["input_ids"])) / len(task.episodes)
    # So many of the same games that every step has full rows, as best fit packs them.
    enough = math.ceil(STEPS * settings.batch_rows * settings.row_tokens / tokens_a_game)
    episodes = task.episodes.select([i % len(task.episodes) for i in range(enough + SAMPLE)])
    model = task.new_model()
    rows, timed = [], {}
    for row in (CLONING, *study.rows.values()):
        cloning = METHODS[row.method].family == "cloning"
        games = settings.games if cloning or not settings.value_games else settings.value_games
        epochs = settings.behavior_epochs if row is CLONING else settings.value_epochs
        steps = math.ceil(
            epochs * games * tokens_a_game / settings.row_tokens / settings.batch_rows
        )
        kind = (METHODS[row.method].family, bool(row.options.get("train_behavior")))
        if kind not in timed:
            timed[kind] = _seconds_a_step(task, model, row, episodes)
        rows.append(
            {
                "method": row.title,
                "steps": steps,
                "tokens": steps * settings.batch_rows * settings.row_tokens,
                "seconds a step": timed[kind],
                "hours": len(study.seeds) * steps * timed[kind] / 3600,
            }
        )
    playing = _hours_of_play(study, task, model)
    memory = peak_memory_mib()
    if torch.cuda.is_available():
        memory = torch.cuda.max_memory_allocated() / 2**20
    return {
        "rows": rows,
        "weights": sum(weight.numel() for weight in model.parameters()),
        "memory_mib": memory,
        "hours": sum(row["hours"] for row in rows) + playing,
        "hours of play": playing,
    }


def _seconds_a_step(task: Task, model: Any, row: Any, episodes: Any) -> float:
    clock = _Clock()
    short = {"max_steps": STEPS, "num_train_epochs": 1, "warmup_steps": 0}
    configured = task.config
    task.config = lambda stage, folder=None, **changes: configured(stage, **short)  # type: ignore
    try:
        task.train(
            row.method, copy.deepcopy(model), None, [clock], episodes=episodes, **row.options
        )
    finally:
        del task.config
    return min(clock.seconds[1:])


def _hours_of_play(study: Study, task: Task, model: Any) -> float:
    """Of all validation and test games, by games of the untrained network."""
    games = min(study.settings.validation_games, SAMPLE)
    policy = task.policy(TrainedMethod.cloned(model, task.tokenizer))
    started = time.perf_counter()
    evaluate(policy, task.env, games, TEST_SEED, batch=games)
    a_game = (time.perf_counter() - started) / games
    count = 0
    for row in (CLONING, *study.rows.values()):
        grid = CLONING_GRID if METHODS[row.method].family == "cloning" else VALUE_GRID
        tried = math.prod(map(len, grid.values()))
        count += len(row.scores) * (
            tried * study.settings.validation_games + study.settings.test_games
        )
    return len(study.seeds) * count * a_game / 3600


def as_text(cost: dict[str, Any], device: str) -> str:
    """An estimate in words."""
    lines = [
        f"{row['method']}: {row['steps']:,} steps, {row['tokens']:,} tokens a seed, "
        f"{row['seconds a step'] * 1000:.0f} ms a step, {row['hours']:.2f} h"
        for row in cost["rows"]
    ]
    return "\n".join(
        [
            f"An estimate, on {device}, of a network of {cost['weights']:,} weights, "
            "by a few steps and games (all seeds together):",
            *lines,
            f"play: at most {cost['hours of play']:.2f} h (an untrained policy's games are long)",
            f"in all about {cost['hours']:.2f} h and {cost['memory_mib']:,.0f} MiB",
        ]
    )
