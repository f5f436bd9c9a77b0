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

import datasets
import torch
from transformers import TrainerCallback

from qsft_lite.baselines import METHODS, TrainedMethod
from qsft_lite.evaluate import evaluate
from qsft_lite.results import peak_memory_mib
from qsft_lite.study.rows import CLONING
from qsft_lite.study.run import Study
from qsft_lite.study.task import TEST_SEED, Task

__all__ = ["estimate"]

STEPS = 4  # of which the first, which warms up, is not timed
SAMPLE = 64  # games


class _Begun(TrainerCallback):
    """Ends a training after a few steps; its rows, its epochs, and the seconds of each step."""

    def __init__(self):
        self.seconds: list[float] = []

    def on_train_begin(self, args, state, control, train_dataloader=None, **others):
        self.rows, self.epochs = len(train_dataloader.dataset), args.num_train_epochs

    @property
    def least(self) -> float:
        """Seconds of the quickest step, without the first one."""
        return min(self.seconds[1:] or self.seconds)

    def on_step_begin(self, args, state, control, **others):
        self._started = time.perf_counter()

    def on_step_end(self, args, state, control, **others):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self._started)
        control.should_training_stop = len(self.seconds) == STEPS


def estimate(study: Study) -> dict[str, Any]:
    """What a study will cost on this machine, for all its seeds.

    Returns:
        "rows": one each method, with its steps, tokens (rows times their length), seconds a step
        and hours of training; "hours", of training and play together, where play is counted as of
        an untrained policy, whose games are the longest; "memory_mib", the most that the steps
        took, of the GPU if there is one, else of this process; "weights".
    """
    settings = study.settings
    task = dataclasses.replace(study, settings=settings.with_few(SAMPLE)).of_seed(0)
    tokens = sum(map(len, task.episodes["input_ids"]))
    # The same games again and again, until a tenth of them, as filtered cloning takes, fills steps.
    times = math.ceil(10 * STEPS * settings.batch_rows * settings.row_tokens / tokens)
    episodes = datasets.concatenate_datasets([task.episodes] * times)
    model, rows = task.new_model(), []
    teachers = {row.teacher: None for row in study.rows.values() if row.teacher}
    for row in (CLONING, *study.rows.values()):
        begun = _Begun()
        start = teachers[row.teacher] if row.teacher else copy.deepcopy(model)
        trained = task.train(row.method, start, None, [begun], episodes=episodes, **row.options)
        if row.key in teachers:
            teachers[row.key] = trained
        games = settings.games if row is CLONING else settings.value_games or settings.games
        packed = begun.rows * games / (times * len(task.games))
        steps = math.ceil(begun.epochs * math.ceil(packed / settings.batch_rows))
        seconds = begun.least
        first = {**METHODS[row.method].options, **row.options}.get("returns_first", 0.0)
        if 0 < first < 1:  # those were steps on returns; the others ask the slow copy, too
            others = _Begun()
            options = {**row.options, "returns_first": 0.0}
            start = copy.deepcopy(model)
            task.train(row.method, start, None, [others], episodes=episodes, **options)
            seconds = first * seconds + (1 - first) * others.least
        rows.append(
            {
                "method": row.title,
                "steps": steps,
                "tokens": steps * settings.batch_rows * settings.row_tokens,
                "seconds a step": seconds,
                "hours": len(study.seeds) * steps * seconds / 3600,
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


def _hours_of_play(study: Study, task: Task, model: Any) -> float:
    """Of all validation and test games, by games of the untrained network."""
    games = min(study.settings.validation_games, SAMPLE)
    policy = task.policy(TrainedMethod.cloned(model, task.tokenizer))
    started = time.perf_counter()
    evaluate(policy, task.env, games, TEST_SEED, batch=games)
    a_game = (time.perf_counter() - started) / games
    count = 0
    for row in (CLONING, *study.rows.values()):
        tried = math.prod(map(len, study.grid(row).values()))
        each = tried * study.settings.validation_games + study.settings.test_games
        count += len(row.scores) * each
    return len(study.seeds) * count * a_game / 3600


def as_text(cost: dict[str, Any], device: str) -> str:
    """An estimate in words."""
    lines = [
        f"{row['method']}: {row['steps']:,} steps, {row['tokens']:,} tokens a seed, "
        f"{row['seconds a step'] * 1000:.0f} ms a step, {_time(row['hours'])}"
        for row in cost["rows"]
    ]
    return "\n".join(
        [
            f"An estimate, on {device}, of a network of {cost['weights']:,} weights, "
            "by a few steps and games (all seeds together):",
            *lines,
            f"play: at most {_time(cost['hours of play'])} (an untrained policy's games are long)",
            f"in all about {_time(cost['hours'])} and {cost['memory_mib']:,.0f} MiB",
        ]
    )


def _time(hours: float) -> str:
    """As "2.5 h", "12 min" or "40 s"."""
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{60 * hours:.0f} min" if hours >= 1 / 30 else f"{3600 * hours:.0f} s"
