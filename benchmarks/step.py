"""What a training step of Q-SFT costs beside supervised fine-tuning: ``python -m benchmarks.step``.

A step is a forward and a backward pass, AdamW, and for Q-SFT the moving average of the target, in
float32 on the CPU. Supervised fine-tuning is this project's stage one on the same packed rows:
chunked cross-entropy on the action tokens. Beside it stand the steps of stage two:

    one dummy          trains p, and runs the target network and the behavior policy; each has a
                       head over the whole vocabulary
    paired, live       trains theta, which needs single logits, and runs the target network and the
                       behavior policy, whose head says which actions have support (the default)
    paired, cached     the same with the behavior policy's logits cached: it is not run
    paired, recorded   live, with the value of the recorded next action: single logits of all three
    paired, returns    neither of the two is run, with the behavior policy's logits cached

Ratios of times are those of `benchmarks.common`; FLOPs are counted, not timed. Memory is the peak
of what a forward and a backward pass allocates, gradients included: what a step needs beyond
weights and the optimizer's moments. Token ids are random over the vocabulary; the rest of the rows
is that of games of Wordle.

The last row sets this project's trainer beside TRL's SFTTrainer on the same model, rows and labels.
TRL reads a packed row as one text; here episodes do not see each other, which costs a mask.
"""

from __future__ import annotations

import copy
import importlib.util
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from string import ascii_lowercase
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from datasets import Dataset
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import interleaved_seconds, ratio, record, row, start
from benchmarks.loss import peak_bytes
from qsft_lite import data, envs
from qsft_lite.models import character_tokenizer, small_model
from qsft_lite.trainer import QSFTTrainer
from qsft_lite.trainer.config import QSFTConfig
from qsft_lite.trainer.stages import BehaviorStage, PairedStage, Stage, ValueStage

SMOKE = {
    "layers": 1,
    "width": 16,
    "heads": 2,
    "length": 160,
    "rows": 2,
    "vocabularies": [64, 500],
    "large": {"width": 32, "rows": 1, "vocabulary": 300},
    "repetitions": 3,
    "trainer steps": 2,
}
LAPTOP = {
    "layers": 3,
    "width": 128,
    "heads": 4,
    "length": 256,
    "rows": 16,
    "vocabularies": [64, 2048, 50_257],  # characters, words, the byte pairs of GPT-2
    "large": {"layers": 12, "width": 768, "heads": 12, "rows": 2, "vocabulary": 50_257},  # GPT-2
    "repetitions": 20,
    "trainer steps": 4,
}

BASELINE = "fine-tuning"
TIME_GOALS = {  # of the ratio to fine-tuning, by step and vocabulary
    ("one dummy", 64): 1.75,
    ("paired, live", 50_257): 1.35,
    ("paired, cached", 50_257): 1.0,
    ("paired, returns", 50_257): 1.0,
}


def packed_games(tokenizer: Any, length: int, rows: int) -> list[dict[str, np.ndarray]]:
    """So many packed rows of games of Wordle."""
    games = envs.generate("wordle", rows * length // 30, 0)
    encoded = data.encode(games, tokenizer, scale=data.RewardScale(low=-6, high=0))
    packed = data.pack(encoded, length)
    return [packed[i] for i in range(rows)]


def untrained(settings: dict[str, Any]) -> tuple[Any, Any]:
    """The tokenizer of these games and a small model of the settings' shape."""
    tokenizer = character_tokenizer("Wordle:" + ascii_lowercase)
    shape = {name: settings[name] for name in ("layers", "width", "heads")}
    return tokenizer, small_model(tokenizer, **shape, context=settings["length"], seed=0)


class Step(NamedTuple):
    """A training step on one batch."""

    stage: Stage
    optimizer: torch.optim.Optimizer
    batch: dict[str, torch.Tensor]

    def differentiate(self) -> None:
        """A forward and a backward pass."""
        self.optimizer.zero_grad()
        self.stage(**self.batch)["loss"].backward()

    def whole(self) -> None:
        """All of the step."""
        self.differentiate()
        self.optimizer.step()
        self.stage.after_step()


def training_steps(settings: dict[str, Any], vocabulary: int, folder: Path) -> dict[str, Step]:
    """A step of each kind, by name."""
    tokenizer, model = untrained(settings)
    model.resize_token_embeddings(vocabulary, mean_resizing=False)
    batch = data.collate(packed_games(tokenizer, settings["length"], settings["rows"]))
    dummy = vocabulary - 1
    batch["input_ids"] = torch.randint(dummy, batch["input_ids"].shape)

    def new_stage(backup: str, **options: Any) -> Stage:
        config = QSFTConfig(output_dir=str(folder), backup=backup, use_cpu=True, **options)
        networks = copy.deepcopy(model), copy.deepcopy(model), config
        if config.leftover == "dummy":
            return ValueStage(*networks, dummy)
        return PairedStage(*networks, 0.5)

    stages = {
        BASELINE: BehaviorStage(copy.deepcopy(model)),
        "one dummy": new_stage("support", leftover="dummy"),
        "paired, live": new_stage("behavior"),
        "paired, cached": new_stage("behavior"),
        "paired, recorded": new_stage("recorded"),
        "paired, returns": new_stage("returns"),
    }
    steps = {}
    for name, stage in stages.items():
        stage.train()
        trained = [weight for weight in stage.parameters() if weight.requires_grad]
        cached = stage.columns(batch) if name in ("paired, cached", "paired, returns") else {}
        steps[name] = Step(stage, torch.optim.AdamW(trained, fused=True), {**batch, **cached})
    return steps


def trainer_seconds(settings: dict[str, Any], folder: Path) -> dict[str, list[float]]:
    """Seconds of a few steps of stage one by either trainer, without its set-up, by turns."""
    import trl

    tokenizer, model = untrained(settings)
    steps, count = settings["trainer steps"], settings["rows"]
    rows = packed_games(tokenizer, settings["length"], count * steps)
    options = {
        "per_device_train_batch_size": count,
        "max_steps": steps,
        "save_strategy": "no",
        "logging_steps": steps,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "dataloader_pin_memory": False,
    }
    own_options = QSFTConfig(output_dir=str(folder / "own"), stage="behavior", **options)
    own = QSFTTrainer(
        copy.deepcopy(model), own_options, Dataset.from_list(rows).with_format("numpy")
    )
    labeled = [
        {
            "input_ids": row["input_ids"].tolist(),
            "labels": np.where(row["action_mask"], row["input_ids"], -100).tolist(),
        }
        for row in rows
    ]
    peer = trl.SFTTrainer(
        copy.deepcopy(model),
        trl.SFTConfig(
            output_dir=str(folder / "trl"),
            max_length=None,
            gradient_checkpointing=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            **options,
        ),
        train_dataset=Dataset.from_list(labeled),
        processing_class=tokenizer,
    )
    seconds: dict[str, list[float]] = {"own": [], "TRL": []}

    def timed(trainer: transformers.Trainer, name: str) -> None:
        seconds[name].append(trainer.train().metrics["train_runtime"])

    for trainer in (own, peer):
        trainer.remove_callback(transformers.PrinterCallback)
    sides = {"own": partial(timed, own, "own"), "TRL": partial(timed, peer, "TRL")}
    interleaved_seconds(sides, settings["repetitions"])
    return {name: times[1:] for name, times in seconds.items()}


def flops(step: Callable[[], None]) -> int:
    """Floating-point operations of the matrix products of one step."""

    def in_place(_added_to: Any, a: Any, b: Any, **_options: Any) -> int:
        return 2 * a[0] * a[1] * b[1]

    unknown = {torch.ops.aten.addmm_: in_place}  # the counter knows only addmm
    with FlopCounterMode(display=False, custom_mapping=unknown) as counter:
        step()
    return counter.get_total_flops()


def compare(settings: dict[str, Any], folder: Path) -> tuple[list[dict], dict]:
    """The rows of the table, and what they were made from."""
    rows: list[dict] = []
    raw: dict[str, Any] = {}

    def add(what: str, case: dict, value: dict | float, goal: float | None) -> None:
        new = row(what, case["rows"] * case["length"], case["width"], value, goal)
        rows.append({"ratio": new.pop("ratio"), "vocabulary": case.get("vocabulary"), **new})

    cases = [{**settings, "vocabulary": vocabulary} for vocabulary in settings["vocabularies"]]
    for case in (*cases, {**settings, **settings["large"]}):
        vocabulary = case["vocabulary"]
        steps = training_steps(case, vocabulary, folder)
        counted = {name: flops(step.whole) for name, step in steps.items()}
        peaks = {n: peak_bytes(step.differentiate, count_kept=True) for n, step in steps.items()}
        whole = {name: step.whole for name, step in steps.items()}
        seconds = interleaved_seconds(whole, settings["repetitions"])
        raw[f"vocabulary {vocabulary}, width {case['width']}"] = {
            "seconds": seconds,
            "flops": counted,
            "bytes": peaks,
        }
        others = [name for name in steps if name != BASELINE]
        for name in others:
            value, goal = ratio(seconds[name], seconds[BASELINE]), (name, vocabulary)
            add(f"time: {name} / {BASELINE}", case, value, TIME_GOALS.get(goal))
        for what, numbers in (("FLOPs", counted), ("memory", peaks)):
            for name in others:
                value = numbers[name] / numbers[BASELINE]
                add(f"{what}: {name} / {BASELINE}", case, value, None)

    if importlib.util.find_spec("trl") is None:
        print("TRL is not installed, so its row is left out: pip install trl\n")
        return rows, raw
    seconds = raw["trainer seconds"] = trainer_seconds(settings, folder)
    add("time: own SFT / TRL's SFTTrainer", settings, ratio(seconds["own"], seconds["TRL"]), 1.0)
    return rows, raw


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    transformers.logging.set_verbosity_error()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own messages
    run = replace(start("step", arguments, SMOKE, LAPTOP), device=torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        rows, raw = compare(run.settings, Path(folder))
    headline = {
        f"{row['ratio']}, vocabulary {row['vocabulary']}, width {row['hidden size']}": row[
            "median [95 % interval]"
        ]
        for row in rows
    }
    record(run, rows, headline, raw)


if __name__ == "__main__":
    main()
