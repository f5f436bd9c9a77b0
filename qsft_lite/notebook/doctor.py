"""What this machine is, how fast, and how long the chapters will take on it.

``python -m qsft_lite.notebook.doctor`` prints it in some ten seconds, and changes nothing.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from qsft_lite.results import load_results, project_root
from qsft_lite.results.provenance import version
from qsft_lite.results.run import available_memory_mib, usable_cpus

if TYPE_CHECKING:
    import torch  # elsewhere where it is used: it may be what is missing

PACKAGES = (
    *("qsft-lite", "torch", "transformers", "tokenizers", "datasets", "accelerate"),
    *("numpy", "scipy", "pandas", "matplotlib", "papermill", "nbclient", "ipykernel"),
)

REFERENCE_STEP = 0.0164
"""CPU seconds of ``training_step`` on the kind of machine that the recorded times are from: Intel
Xeon with AVX-512 and AMX, 2 CPUs, Linux, torch 2.13.0+cpu; the median of seven calls on an idle
machine, 2026-11-25."""


def cpu_name() -> str:
    """The CPU as its maker calls it, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def gflops(dtype: torch.dtype, seconds: float = 0.3, size: int = 512) -> float:
    """10^9 operations a second of a product of two square matrices, median over ``seconds``."""
    import torch

    left, right = torch.rand(2, size, size).to(dtype)
    left @ right
    times, started = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - started < seconds:
        before = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - before)
    return 2 * size**3 / statistics.median(times) / 1e9


def training_step(steps: int = 30) -> float:
    """CPU seconds of one step of a small transformer, such as the chapters train; the median.

    One thread, and CPU time: what else runs on the machine hardly counts.
    """
    import torch

    from qsft_lite import models

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        tokenizer = models.character_tokenizer("abcdefghijklmnopqrstuvwxyz")
        model = models.small_model(tokenizer, layers=2, width=64, heads=4, context=128, seed=0)
        optimizer = torch.optim.AdamW(model.parameters())
        generator = torch.Generator().manual_seed(0)
        rows = torch.randint(3, len(tokenizer), (8, 128), generator=generator)
        times = []
        for _ in range(5 + steps):
            before = time.process_time()
            model(input_ids=rows, labels=rows).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            times.append(time.process_time() - before)
    finally:
        torch.set_num_threads(threads)
    return statistics.median(times[5:])


def predicted_minutes(step: float) -> dict[str, float]:
    """Minutes of each notebook at laptop: those recorded, times ``step`` / REFERENCE_STEP.

    An estimate: one small measure stands for all that a chapter does. {} outside a checkout.
    """
    root = project_root()
    notebooks = {path.stem for path in (root / "notebooks").glob("*.ipynb")}
    return {
        result["name"]: result["seconds"] / 60 * step / REFERENCE_STEP
        for result in load_results(root / "data" / "results")
        if result["profile"] == "laptop" and result["name"] in notebooks
    }


def main() -> int:
    """Print the report; return the exit status: 1 where a package is missing."""
    found = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    for name, number in found.items():
        print(f"{name:<14}{number}")
    if "missing" in found.values():
        print("Something is missing: run python tools/set_up.py (or make set-up).")
        return 1
    import torch

    memory = psutil.virtual_memory().total / 2**20
    threads = os.environ.get("QSFT_THREADS") or f"{min(usable_cpus(), 4)} at most"
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    print(f"\nsystem        {platform.platform()}")
    print(f"CPU           {cpu_name()}; {usable_cpus()} of {os.cpu_count()} usable")
    print(f"memory        {available_memory_mib():,.0f} of {memory:,.0f} MiB free")
    print(f"GPU           {', '.join(gpus) or 'none that torch finds'}")
    print(f"threads       torch {torch.get_num_threads()}; notebooks {threads}")
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        print(f"{name:<14}{gflops(dtype):,.0f} GFLOP/s")
    step = training_step()
    relative = step / REFERENCE_STEP
    print(f"small step    {1000 * step:.1f} ms, {relative:.2f} of where times were recorded")

    if minutes := predicted_minutes(step):
        print("\nExpected minutes at laptop, one by one on an idle CPU (a rough estimate, from the")
        print("recorded times and the small step):")
        for name, value in {**minutes, "all of these": sum(minutes.values())}.items():
            print(f"  {name:<30}{value:5.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
