"""What a training step of Q-SFT costs beside supervised fine-tuning: ``python -m benchmarks.step``.

A step is a forward and a backward pass, AdamW, and for Q-SFT the moving average of the target, in
float32 on the CPU. Ratios of times are those of `benchmarks.common`; FLOPs are counted, not timed.
Supervised fine-tuning is this project's stage one on the same packed rows: chunked cross-entropy on
the action tokens.

The last row sets this project's trainer beside TRL's SFTTrainer on the same model, rows and labels.
TRL reads a packed row as one text; here episodes do not see each other, which costs a mask.
"""

from __future__ import annotations

import copy
import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import torch
import transformers
from datasets import Dataset
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import Sides, interleaved_seconds, ratio, record, row, start
from qsft_lite import data, envs
from qsft_lite.models import character_tokenizer, dummy_id, small_model
from qsft_lite.trainer import QSFTTrainer, ValueStage
from qsft_lite.trainer.config import QSFTConfig
from qsft_lite.trainer.step import behavior_step

SMOKE = {
    "layers": 1,
    "width": 16,
    "heads": 2,
    "length": 160,
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


def packed_games(tokenizer: Any, length: int, rows: int) -> list[dict[str, np.ndarray]]:
    """So many packed rows of games of Wordle."""
    games = envs.generate("wordle", rows * length // 30, 0)
    encoded = data.encode(games, tokenizer, scale=data.RewardScale(low=-6, high=0))
    packed = data.pack(encoded, length)
    return [packed[i] for i in range(rows)]


def untrained(settings: dict[str, int]) -> tuple[Any, Any]:
    """The tokenizer of these games and a small model of the settings' shape."""
    tokenizer = character_tokenizer("Wordle:" + ascii_lowercase)
    shape = {name: settings[name] for name in ("layers", "width", "heads")}
    return tokenizer, small_model(tokenizer, **shape, context=settings["length"], seed=0)


def training_steps(settings: dict[str, int], folder: Path) -> Sides:
    """A step of either kind."""
    tokenizer, start = untrained(settings)
    batch = data.collate(packed_games(tokenizer, settings["length"], settings["rows"]))
    config = QSFTConfig(output_dir=str(folder), backup="support", use_cpu=True)
    model = copy.deepcopy(start).train()
    stage = ValueStage(start, copy.deepcopy(start), config, dummy_id(tokenizer)).train()
    for_model, for_q = (torch.optim.AdamW(m.parameters(), fused=True) for m in (model, stage.q))

    def supervised() -> None:
        for_model.zero_grad()
        behavior_step(model, batch).backward()
        for_model.step()

    def q_sft() -> None:
        for_q.zero_grad()
        stage(**batch)["loss"].backward()
        for_q.step()
        stage.after_step()

    return {"SFT": supervised, "Q-SFT": q_sft}


def trainer_seconds(settings: dict[str, int], folder: Path) -> dict[str, list[float]]:
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
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def compare(settings: dict[str, int], folder: Path) -> tuple[list[dict], dict]:
    """The rows of the table, and what they were made from."""
    steps = training_steps(settings, folder)
    counted = {name: flops(step) for name, step in steps.items()}
    seconds = interleaved_seconds(steps, settings["repetitions"])
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
    transformers.logging.set_verbosity_error()
    run = replace(start("step", arguments, SMOKE, LAPTOP), device=torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        rows, raw = compare(run.settings, Path(folder))
    record(run, rows, {row["ratio"]: row["median [95 % interval]"] for row in rows}, raw)


if __name__ == "__main__":
    main()
