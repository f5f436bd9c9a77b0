"""How many tokens a second are trained on: ``python -m benchmarks.training``.

Steps of stage one (cloning) and stage two (paired, backing up the clone's expectation) at four
sizes that the tasks use, with Muon, in float32, by turns in one process:

    before      masks over packed rows, and the matrices of Muon one by one
    now         attention by episode in long rows (``models.episodes``), Muon's small ones together
    compiled    the same with the layers compiled (``compile_layers``); "start" is what compiling
                took in an empty cache, which a training has to earn back

Then SmolLM2-135M with AdamW in float32 and in mixed precision, which pays on processors with AMX
and on GPUs. Token ids are random; games are of one length each, as many as fit in a row.
"""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import transformers

from benchmarks.common import interleaved_seconds, ratio, record, start
from benchmarks.step import Step
from qsft_lite.models import character_tokenizer, reading, small_model, smollm2
from qsft_lite.trainer import optimizer
from qsft_lite.trainer.compiling import transformer_layers
from qsft_lite.trainer.config import QSFTConfig
from qsft_lite.trainer.stages import BehaviorStage, PairedStage, Stage

SHAPE = ("layers", "width", "vocabulary", "game", "row", "rows")  # tokens of a game, of a row
SIZES = {
    "Wordle": (2, 64, 60, 13, 56, 32),
    "endgames": (2, 128, 150, 5, 246, 8),
    "robot": (3, 160, 300, 36, 230, 8),
    "WebShop": (4, 256, 2000, 90, 512, 4),
}
LAPTOP = {
    "sizes": {name: dict(zip(SHAPE, shape, strict=True)) for name, shape in SIZES.items()},
    "compile": True,
    "repetitions": 10,
    "pretrained": {"name": "SmolLM2-135M", "game": 60, "row": 128, "rows": 2},
    "pretrained repetitions": 2,
}
SMOKE = {
    "sizes": {
        "short rows": dict(zip(SHAPE, (1, 16, 40, 5, 16, 2), strict=True)),
        "long rows": dict(zip(SHAPE, (1, 16, 40, 5, 140, 2), strict=True)),
    },
    "compile": False,
    "repetitions": 3,
    "pretrained": {"name": "scratch", "game": 6, "row": 24, "rows": 1},
    "pretrained repetitions": 2,
}
STAGES = ("one", "two")

Context = Callable[[], AbstractContextManager]


def random_batch(size: dict[str, Any], vocabulary: int) -> dict[str, torch.Tensor]:
    """Packed rows of games of one length, in which every second token is an action."""
    count, length, game = size["rows"], size["row"], size["game"]
    place = torch.arange(length)
    inside, segment = place % game, place // game + 1
    in_game = segment <= length // game
    is_action = (inside % 2 == 1) & in_game
    following = torch.where(is_action & (inside + 2 < game), place + 2, -1)
    columns = {
        "position_ids": inside,
        "segment_ids": torch.where(in_game, segment, 0),
        "action_mask": is_action,
        "next_action": following,
        "reward": 0.1 * is_action,
        "discount": 0.9 * is_action,
        "return_to_go": 0.5 * is_action,
    }
    batch = {name: column.repeat(count, 1) for name, column in columns.items()}
    generator = torch.Generator().manual_seed(0)
    batch["input_ids"] = torch.randint(vocabulary, (count, length), generator=generator)
    return batch


def stage_of(model: Any, number: str, folder: Path) -> Stage:
    """Stage one or two, on copies of a model."""
    if number == "one":
        return BehaviorStage(copy.deepcopy(model)).train()
    config = QSFTConfig(output_dir=str(folder), backup="behavior", use_cpu=True)
    return PairedStage(copy.deepcopy(model), copy.deepcopy(model), config, 0.5).train()


def small(size: dict[str, Any]) -> Any:
    """An untrained network of this size."""
    shape = {"layers": size["layers"], "width": size["width"], "heads": 4, "context": size["row"]}
    model = small_model(character_tokenizer("ab"), **shape, seed=0)
    model.resize_token_embeddings(size["vocabulary"], mean_resizing=False)
    return model


@contextmanager
def as_before() -> Iterator[None]:
    """Masks in all rows, and each matrix of Muon by itself."""
    masks = mock.patch.object(reading, "attends_by_episode", lambda *_: False)
    with masks, mock.patch.object(optimizer, "SMALL", 0):
        yield


def step_of(stage: Stage, batch: dict[str, torch.Tensor], muon: bool = True) -> Step:
    """A training step of this stage."""
    trained = [weight for weight in stage.parameters() if weight.requires_grad]
    if muon:
        return Step(stage, optimizer.MuonAdamW(stage, 1e-3, 0.1), batch)
    return Step(stage, torch.optim.AdamW(trained, 1e-5, fused=True), batch)


def within(context: Context, step: Step) -> None:
    """A whole step in a context."""
    with context():
        step.whole()


def compile_time(step: Step) -> float:
    """Compile the layers of a stage; seconds of its first step."""
    torch._dynamo.reset()
    for layer in transformer_layers(step.stage):
        layer.compile()
    empty = tempfile.TemporaryDirectory(prefix="no_cache")
    with empty as folder, mock.patch.dict(os.environ, {"TORCHINDUCTOR_CACHE_DIR": folder}):
        began = time.perf_counter()
        step.whole()
        return time.perf_counter() - began


def speeds(tokens: int, seconds: dict[str, list[float]]) -> dict[str, float]:
    """Tokens a second of each side, by its median."""
    return {side: tokens / float(np.median(times)) for side, times in seconds.items()}


def compare_sizes(settings: dict[str, Any], folder: Path) -> tuple[list[dict], dict]:
    """The rows of the small networks, and the seconds that they were made from."""
    rows, raw = [], {}
    compiles = settings["compile"] and (shutil.which("g++") or shutil.which("clang++"))
    for name, size in settings["sizes"].items():
        model, batch = small(size), random_batch(size, size["vocabulary"])
        tokens = size["rows"] * size["row"]
        for number in STAGES:
            stages = [stage_of(model, number, folder) for _ in range(3)]
            plain, now, compiled = (step_of(stage, batch) for stage in stages)
            begun = compile_time(compiled) if compiles else None
            sides = {"before": partial(within, as_before, plain), "now": now.whole}
            if compiles:
                sides["compiled"] = compiled.whole
            seconds = interleaved_seconds(sides, settings["repetitions"])
            raw[f"{name}, stage {number}"] = {"seconds": seconds, "start": begun}
            found = speeds(tokens, seconds)
            row = {
                "size": f"{name}: {size['layers']} layers, width {size['width']}",
                "stage": number,
                "tokens/s before": round(found["before"]),
                "now": round(found["now"]),
                "now / before": ratio(seconds["before"], seconds["now"]),
            }
            if compiles:
                row["compiled"] = round(found["compiled"])
                row["compiled / before"] = ratio(seconds["before"], seconds["compiled"])
                row["start (s)"] = round(begun, 1)
            rows.append(row)
    return rows, raw


def compare_precisions(settings: dict[str, Any], folder: Path) -> tuple[list[dict], dict]:
    """The rows of the pretrained model."""
    size = settings["pretrained"]
    if size["name"] == "scratch":
        model = small({**size, "layers": 1, "width": 16, "vocabulary": 40})
    else:
        model, _ = smollm2()
    batch = random_batch(size, model.config.vocab_size)
    rows, raw = [], {}
    for number in STAGES:
        step = step_of(stage_of(model, number, folder), batch, muon=False)
        mixed = partial(torch.autocast, "cpu", torch.bfloat16)
        sides = {"float32": step.whole, "bfloat16": partial(within, mixed, step)}
        seconds = interleaved_seconds(sides, settings["pretrained repetitions"])
        raw[f"stage {number}"] = seconds
        of_each = speeds(size["rows"] * size["row"], seconds)
        rows.append(
            {
                "model": size["name"],
                "stage": number,
                "tokens/s in float32": round(of_each["float32"], 1),
                "in bfloat16": round(of_each["bfloat16"], 1),
                "bfloat16 / float32": ratio(seconds["float32"], seconds["bfloat16"]),
            }
        )
    return rows, raw


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    run = replace(start("training", arguments, SMOKE, LAPTOP), device=torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        small_rows, small_raw = compare_sizes(run.settings, Path(folder))
        large_rows, large_raw = compare_precisions(run.settings, Path(folder))
    headline = {f"{row['size']}, stage {row['stage']}": row["now / before"] for row in small_rows}
    raw = {"small": small_raw, "pretrained": large_raw}
    record(run, small_rows, headline, raw, precision=large_rows)


if __name__ == "__main__":
    main()
