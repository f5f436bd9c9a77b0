"""One seed of a task in a study: its games, its untrained network, how it trains and plays.

    task = WordleTask(PROFILES["laptop"], seed=0)
    cloned = task.clone()
    ours = task.train("q_sft", cloned)
    choice = task.choose(ours)
    result = task.play(task.policy(ours, **choice.options), test=True)

``run.run`` does this for all methods and seeds, in a folder, from wherever it was stopped.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import datasets
import numpy as np
import pyarrow.compute as pc
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from qsft_lite.baselines import METHODS, TrainedMethod, train
from qsft_lite.baselines.choosing import CLONING_GRID, VALUE_GRID, Choice, Grid, choose
from qsft_lite.baselines.episodes import best_episodes
from qsft_lite.data import data_hash
from qsft_lite.evaluate import Evaluation, Policy, evaluate
from qsft_lite.study.settings import Settings
from qsft_lite.trainer import QSFTConfig

__all__ = ["TEST_SEED", "VALIDATION_SEED", "Task"]

VALIDATION_SEED, TEST_SEED = 1_000, 2_000  # of the games: the same ones for all seeds and methods


class Task:
    """A task's subclass says what is its own, see docs/tasks.md.

    It sets env, tokenizer and acts (options of every policy), and has the methods of the first
    half. lowest: the score that is normalised to 0; best: the reference player whose score is 100.
    """

    lowest: ClassVar[float]
    best: ClassVar[str]

    env: Any
    tokenizer: PreTrainedTokenizerBase
    acts: dict[str, Any]
    fully_shard: bool = False  # divide networks among processes, see trainer.QSFTConfig

    def __init__(self, settings: Settings, seed: int):
        self.settings, self.seed = settings, seed

    # What a subclass says

    def new_model(self) -> PreTrainedModel:
        """The network before any training."""
        raise NotImplementedError

    def recorded(self, games: int, part: str) -> datasets.Dataset:
        """Games of the behavior policy: those of a "behavior", "values" or "held out" part."""
        raise NotImplementedError

    def encoded(self, games: datasets.Dataset) -> datasets.Dataset:
        """The same as tokens, see data.encode."""
        raise NotImplementedError

    def levels(self) -> dict[str, float]:
        """Mean scores of the reference players on the test games."""
        raise NotImplementedError

    def starts(self, test: bool) -> list[dict[str, Any]] | None:
        """reset's options of all test or validation games; None for drawn ones."""
        return None

    def measure(self, trained: TrainedMethod) -> dict[str, float]:
        """What to record of a method beside its scores, such as errors to exact truth."""
        return {}

    def describe(self, result: Evaluation) -> dict[str, float]:
        """What else to say of test games."""
        return {}

    def raw(self) -> dict[str, Any]:
        """What to record beside the scores, such as the words of the game."""
        return {}

    def explorer(self, trained: TrainedMethod, options: dict[str, Any]) -> None:
        """Show the task's explorer of a policy, in a notebook."""
        raise NotImplementedError

    # The same for all

    @cached_property
    def games(self) -> datasets.Dataset:
        """The games of stage one, in the task's own units."""
        return self.recorded(self.settings.games, "behavior")

    @cached_property
    def episodes(self) -> datasets.Dataset:
        """The same as tokens."""
        return self.encoded(self.games)

    @cached_property
    def value_episodes(self) -> datasets.Dataset:
        """What all methods but cloning learn from."""
        if not self.settings.value_games:
            return self.episodes
        return self.encoded(self.recorded(self.settings.value_games, "values"))

    @cached_property
    def model(self) -> PreTrainedModel:
        """The network that cloning begins with."""
        return self.new_model()

    @property
    def data_hash(self) -> str:
        """Of the games of stage one."""
        return data_hash(self.games)

    @property
    def data_mean(self) -> float:
        """Their mean return."""
        return float(np.mean([sum(reward) for reward in self.games["reward"]]))

    def config(self, stage: str, folder: str | Path | None = None, **changes: Any) -> QSFTConfig:
        """What a training is set by; stage: "behavior" or "values". No folder: nothing is kept."""
        settings, first = self.settings, stage == "behavior"
        kept = {"save_strategy": "steps", "save_steps": settings.checkpoint_steps}
        muon = {"muon": True, "weight_decay": 0.1, "lr_scheduler_type": "cosine"}
        return QSFTConfig(
            **{
                "output_dir": str(folder or tempfile.mkdtemp()),
                "stage": stage,
                "seed": self.seed,
                "num_train_epochs": settings.behavior_epochs if first else settings.value_epochs,
                "per_device_train_batch_size": max(settings.batch_rows // _processes(), 1),
                "learning_rate": settings.learning_rate if first else settings.value_learning_rate,
                "warmup_steps": settings.warmup_steps if first else settings.value_warmup_steps,
                "adam_beta2": 0.98,
                "target_rate": settings.target_rate,
                "logging_steps": 0.05,  # of all steps
                "disable_tqdm": True,
                "fully_shard": self.fully_shard,
                "bf16": settings.bf16 and gains_by_bf16(),
                "compile_layers": settings.compile_layers,
                "use_cpu": not torch.cuda.is_available(),
                **(muon if settings.muon else {}),
                **(kept if folder else {"save_strategy": "no"}),
                **changes,
            }
        )

    def clone(
        self, folder: str | Path | None = None, callbacks: Sequence[TrainerCallback] = ()
    ) -> TrainedMethod:
        """Behavior cloning, from the untrained network."""
        return self.train("bc", self.model, folder, callbacks)

    def train(
        self,
        method: str,
        start: PreTrainedModel | TrainedMethod,
        folder: str | Path | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        *,
        episodes: datasets.Dataset | None = None,
        **options: Any,
    ) -> TrainedMethod:
        """One of METHODS.

        Args:
            method: its name.
            start: the weights to go on from: an untrained network for "bc", a cloned one (or what
                ``clone`` gave) for all others; or another method of Q-SFT's loss, to go on from.
            folder: for its checkpoints; called again with the same one, it goes on where it was.
            callbacks: of the trainer.
            episodes: to learn from; by default those of the method's stage.
            options: the method's own, see METHODS.
        """
        if isinstance(start, TrainedMethod) and start.values is None:
            start = start.behavior
        stage = "behavior" if method == "bc" else "values"
        if episodes is None:
            episodes = self.episodes if method == "bc" else self.value_episodes
        config = self.config(stage, folder)
        if fraction := {**METHODS[method].options, **options}.get("fraction"):
            # As many steps on a part of the episodes as the other methods have on all of them.
            part = best_episodes(episodes, fraction, seed=config.seed)
            config.num_train_epochs *= _tokens(episodes) / _tokens(part)
        return train(
            method,
            start,
            self.tokenizer,
            episodes,
            None,
            config,
            length=self.settings.row_tokens,
            resume=folder is not None,
            callbacks=list(callbacks),
            **options,
        )

    def policy(self, trained: TrainedMethod, **options: Any) -> Policy:
        """A trained method at play; options: beta, temperature, greedy, score, relative_support."""
        return trained.policy(**options, **self.acts)

    def play(self, policy: Policy, test: bool) -> Evaluation:
        """The policy's test games, or its validation games."""
        settings = self.settings
        games = settings.test_games if test else settings.validation_games
        seed = TEST_SEED if test else VALIDATION_SEED
        starts = self.starts(test) if settings.even_starts else None
        if starts is None:
            return evaluate(policy, self.env, games, seed)
        return evaluate(policy, self.env, len(starts), seed, batch=len(starts), options=starts)

    def choose(
        self,
        trained: TrainedMethod,
        *,
        score: str = "",
        grid: Grid | None = None,
        widenings: int = 4,
    ) -> Choice:
        """The best options of its policy by validation games; see baselines.choosing.

        score: which one it acts by, "p" or "ratio", of Q-SFT's forms with no or one dummy.
        """
        if grid is None:
            grid = VALUE_GRID if METHODS[trained.method].has_values else CLONING_GRID
        by = {"score": score} if score else {}

        def validated(options: dict[str, Any]) -> float:
            return self.play(self.policy(trained, **options, **by), test=False).mean

        choice = choose(validated, grid, widenings=widenings)
        return dataclasses.replace(choice, options={**choice.options, **by})


def evenly(starts: Sequence[dict[str, Any]], games: int) -> list[dict[str, Any]]:
    """So many starts, each of them equally often, or once more than another."""
    return [copy.copy(starts[game % len(starts)]) for game in range(games)]


def all_over(games: datasets.Dataset) -> datasets.Dataset:
    """The games with those that were cut off counted as over, with the rewards they had."""
    return games.remove_columns("done").add_column("done", [True] * len(games))


def gains_by_bf16() -> bool:
    """Whether mixed precision is quicker here: on a GPU that has it, and on a CPU with AMX."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", None)  # private, so perhaps not there
    return has_amx is not None and has_amx()


def _tokens(episodes: datasets.Dataset) -> int:
    """Of all of them together."""
    return pc.sum(pc.list_value_length(episodes.with_format("arrow")[:]["input_ids"])).as_py()


def _processes() -> int:
    """Processes of this run, as torchrun says."""
    return int(os.environ.get("WORLD_SIZE", 1))
