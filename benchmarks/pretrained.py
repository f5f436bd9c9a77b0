"""What training a pretrained model holds in memory: ``python -m benchmarks.pretrained``.

A step of stage two (paired, with the value of the recorded next action) holds three networks:
theta, which learns, its moving average, and the clone. The rows are

    all weights      three copies of the model
    LoRA             three adapters of one base
    checkpointing    activations are computed again in the backward pass, and not kept
    bfloat16         the base in 16 bits, the adapters in 32

Weights, gradients and the two moments of AdamW are counted, each tensor once, and given over the
bytes of one model in float32; what a forward and a backward pass allocate, gradients included, is
the profiler's peak. All are deterministic; times are those of ``benchmarks.step``.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers

from benchmarks.common import record, start
from benchmarks.loss import peak_bytes
from benchmarks.step import Step
from qsft_lite.data import collate, pack
from qsft_lite.models.networks import twin
from qsft_lite.tasks.twenty_questions import pretrained as study
from qsft_lite.trainer.config import QSFTConfig
from qsft_lite.trainer.stages import PairedStage

SMOKE = {"model": "scratch", "rows": 1, "length": 64, "rank": 4}
LAPTOP = {"model": "smollm2", "rows": 2, "length": 64, "rank": 16}
GPU = {**LAPTOP, "rows": 64, "length": 512}
TRAININGS = {  # name: (LoRA, checkpointing, type of the base)
    "all weights": (False, False, torch.float32),
    "all weights, checkpointing": (False, True, torch.float32),
    "LoRA": (True, False, torch.float32),
    "LoRA, checkpointing": (True, True, torch.float32),
    "LoRA, bfloat16": (True, False, torch.bfloat16),
}


def training_step(
    settings: dict[str, Any], name: str, folder: Path, device: torch.device
) -> tuple[Step, int]:
    """A step of this training on a batch of choices, and the bytes of one model in float32."""
    lora, checkpointing, dtype = TRAININGS[name]
    plan = study.Plan(model=settings["model"], episodes=200 * settings["rows"])
    model, tokenizer = study.begin_with(plan, 0)
    size = 4 * sum(weight.numel() for weight in model.parameters())
    model = study.with_adapters(model.to(dtype), settings["rank"] if lora else 0, 0).to(device)
    behavior = twin(model, "behavior")
    config = QSFTConfig(output_dir=str(folder), backup="recorded", use_cpu=device.type == "cpu")
    stage = PairedStage(model, behavior, config, 0.5).train()
    if checkpointing:
        stage.activation_checkpointing_enable()
    rows = pack(study.recorded_choices(plan, tokenizer, 0), settings["length"])
    batch = collate([rows[i] for i in range(settings["rows"])])
    batch = {name: value.to(device) for name, value in batch.items()}
    trained = [weight for weight in stage.parameters() if weight.requires_grad]
    return Step(stage, torch.optim.AdamW(trained), batch), size


def measured(
    settings: dict[str, Any], name: str, folder: Path, device: torch.device
) -> dict[str, Any]:
    """A row of the table."""
    step, size = training_step(settings, name, folder, device)
    every = {weight.data_ptr(): weight for weight in step.stage.parameters()}
    weights = sum(weight.numel() * weight.element_size() for weight in every.values())
    trained = sum(
        weight.numel() * weight.element_size()
        for weight in step.optimizer.param_groups[0]["params"]
    )
    if device.type == "cuda":
        step.differentiate()
        torch.cuda.reset_peak_memory_stats()
        step.optimizer.zero_grad()
        before = torch.cuda.memory_allocated()
        step.differentiate()
        allocated = torch.cuda.max_memory_allocated() - before
    else:
        allocated = peak_bytes(step.differentiate, count_kept=True)
    return {
        "training": name,
        "weights / one model": weights / size,
        "gradients and moments / one model": 3 * trained / size,
        "a pass allocates (MB)": allocated / 1e6,
    }


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own messages
    run = start("pretrained", arguments, SMOKE, LAPTOP, GPU)
    with tempfile.TemporaryDirectory() as folder:
        rows = [measured(run.settings, name, Path(folder), run.device) for name in TRAININGS]
    headline = {row["training"]: row["weights / one model"] for row in rows}
    record(run, rows, headline, {"rows": rows})


if __name__ == "__main__":
    main()
