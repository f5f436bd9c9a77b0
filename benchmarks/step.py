"""What a training step of Q-SFT costs beside supervised fine-tuning: ``python -m benchmarks.step``.

A step is a forward and a backward pass, AdamW, and for Q-SFT the moving average of the target, in
float32 on the CPU. Times are ratios of two sides that run by turns in one process, see
``benchmarks.loss``; FLOPs are counted, not timed. Supervised fine-tuning is this project's stage
one on the same packed rows: chunked cross-entropy on the action tokens.

The last row sets this project's trainer beside TRL's SFTTrainer on the same model, rows and labels.
TRL reads a packed row as one text; here episodes do not see each other, which costs a mask.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from datasets import Dataset
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.loss import interleaved_seconds, ratio, row
from qsft_lite import data, notebook
from qsft_lite.models import character_tokenizer, dummy_id, small_model
from qsft_lite.results import PROFILES, markdown_table
from qsft_lite.trainer import QSFTTrainer, ValueStage
from qsft_lite.trainer.config import QSFTConfig
from qsft_lite.trainer.step import behavior_step

SMOKE = {
    "layers": 1,
    "width": 16,
    "heads": 2,
    "length": 128,
    "rows": 2,
    "repetitions": 3,
    "trainer steps": 2,
}
LAPTOP = {
    "layers": 3,
    "width": 128,
    "heads": 4,
    "length": 256,
    "rows": 16,
    "repetitions": 20,
    "trainer steps": 4,
}

LETTERS = "abcdefghijklmnopqrstuvwxyz"
Step = Callable[[], torch.Tensor]


def packed_games(tokenizer: Any, length: int, rows: int) -> list[dict[str, np.ndarray]]:
    """So many packed rows of texts shaped like games of Wordle: one to six guesses and answers."""
    random = np.random.default_rng(0)

    def word(alphabet: str) -> str:
        return " ".join(random.choice(list(alphabet), 5)) + "\n"

    games = []
    for turns in random.integers(1, 7, rows * length // 30):
        text = ["Wordle:\n"]
        for _ in range(turns):
            text += [word(LETTERS), word("byg")]
        games.append(
            {
                "text": text,
                "is_action": [i % 2 == 1 for i in range(len(text))],
                "reward": [-1.0 if i % 2 == 1 else 0.0 for i in range(len(text))],
                "done": True,
            }
        )
    scale = data.RewardScale(low=-6, high=0)
    packed = data.pack(data.encode(Dataset.from_list(games), tokenizer, scale=scale), length)
    return [packed[i] for i in range(rows)]


def training_steps(settings: dict[str, int], folder: Path) -> dict[str, Step]:
    """A function for each kind of step; the backward pass follows, then ``optimizer_step``."""
    tokenizer = character_tokenizer("Wordle:" + LETTERS)
    rows = packed_games(tokenizer, settings["length"], settings["rows"])
    start = small_model(
        tokenizer,
        layers=settings["layers"],
        width=settings["width"],
        heads=settings["heads"],
        context=settings["length"],
        seed=0,
    )
    dummy = dummy_id(tokenizer)
    config = QSFTConfig(output_dir=str(folder), backup="support", use_cpu=True)
    batch = data.collate(rows)

    def supervised() -> Step:
        model = copy.deepcopy(start).train()
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)

        def step() -> torch.Tensor:
            optimizer.zero_grad()
            behavior_step(model, batch).backward()
            optimizer.step()
            return _nothing_to_do()

        return step

    def q_sft() -> Step:
        stage = ValueStage(copy.deepcopy(start), copy.deepcopy(start), config, dummy).train()
        optimizer = torch.optim.AdamW(stage.q.parameters(), fused=True)

        def step() -> torch.Tensor:
            optimizer.zero_grad()
            stage(**batch)["loss"].backward()
            optimizer.step()
            stage.after_step()
            return _nothing_to_do()

        return step

    return {"SFT": supervised(), "Q-SFT": q_sft()}


def _nothing_to_do() -> torch.Tensor:
    """A loss for interleaved_seconds to go backward from: the step has done so itself."""
    return torch.zeros((), requires_grad=True)


def flops(step: Step) -> int:
    """Floating-point operations of the matrix products of one step."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


class Clock(transformers.TrainerCallback):
    """Times the steps of each call of train(), and leaves out how it sets itself up."""

    def __init__(self):
        self.seconds: list[float] = []

    def on_train_begin(self, args, state, control, **others):
        """Remember when."""
        self.began = time.perf_counter()

    def on_train_end(self, args, state, control, **others):
        """Keep how long it took."""
        self.seconds.append(time.perf_counter() - self.began)


def trainer_seconds(settings: dict[str, int], folder: Path) -> dict[str, list[float]]:
    """Seconds of a few steps of stage one by either trainer, by turns, after one warm-up."""
    import trl

    steps, count = settings["trainer steps"], settings["rows"]
    tokenizer = character_tokenizer("Wordle:" + LETTERS)
    rows = packed_games(tokenizer, settings["length"], count * steps)
    model = small_model(
        tokenizer,
        layers=settings["layers"],
        width=settings["width"],
        heads=settings["heads"],
        context=settings["length"],
        seed=0,
    )
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
    trainers, clocks = {"own": own, "TRL": peer}, {"own": Clock(), "TRL": Clock()}
    for name, trainer in trainers.items():
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.add_callback(clocks[name])
    for repetition in range(settings["repetitions"] + 1):
        for name in list(trainers) if repetition % 2 else list(reversed(trainers)):
            trainers[name].train()
    return {name: clock.seconds[1:] for name, clock in clocks.items()}


def compare(settings: dict[str, int], folder: Path) -> tuple[list[dict], dict]:
    """The rows of the table, and what they were made from."""
    steps = training_steps(settings, folder)
    counted = {name: flops(step) for name, step in steps.items()}
    seconds = interleaved_seconds(steps, [], settings["repetitions"])
    tokens, width = settings["rows"] * settings["length"], settings["width"]
    rows = []
    value = ratio(seconds["Q-SFT"], seconds["SFT"])
    rows.append(row("time: Q-SFT / SFT", tokens, width, value, 1.75))
    value = counted["Q-SFT"] / counted["SFT"]
    rows.append(row("FLOPs: Q-SFT / SFT", tokens, width, value, 1.75))
    raw: dict[str, Any] = {"seconds": seconds, "flops": counted}
    if importlib.util.find_spec("trl") is None:
        print("TRL is not installed, so its row is left out: pip install trl\n")
        return rows, raw
    seconds = raw["trainer seconds"] = trainer_seconds(settings, folder)
    value = ratio(seconds["own"], seconds["TRL"])
    rows.append(row("time: own SFT / TRL's SFTTrainer", tokens, width, value, 1.0))
    return rows, raw


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step")
    parser.add_argument("--profile", choices=PROFILES, default="laptop")
    options = parser.parse_args(arguments)
    os.environ.setdefault("QSFT_COMMAND", f"python -m benchmarks.step --profile {options.profile}")
    transformers.logging.set_verbosity_error()
    settings = {"smoke": SMOKE, "laptop": LAPTOP, "gpu": LAPTOP}
    run = notebook.start("benchmark_step", profile=options.profile, seed=0, settings=settings)
    run = replace(run, device=torch.device("cpu"))

    with tempfile.TemporaryDirectory() as folder:
        rows, raw = compare(run.settings, Path(folder))
    print(f"{run.threads} threads, torch {torch.__version__}.\n")
    print(markdown_table(rows))
    headline = {row["ratio"]: row["median [95 % interval]"] for row in rows}
    run.record(headline=headline, tables={"benchmark_step": rows}, raw=raw)


if __name__ == "__main__":
    main()
