"""What the benchmarks share: two sides timed by turns, the table of their ratios, and the record.

The sides run by turns in one process, in changing order; each repetition gives one ratio, and the
table holds the median with its 95 % bootstrap interval.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from qsft_lite import notebook
from qsft_lite.results import PROFILES, markdown_table

Sides = dict[str, Callable[[], Any]]


def start(
    name: str,
    arguments: list[str] | None,
    smoke: dict[str, Any],
    laptop: dict[str, Any],
    gpu: dict[str, Any] | None = None,
) -> notebook.Run:
    """The run of ``benchmarks/<name>.py`` with the profile of its command line."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}")
    parser.add_argument("--profile", choices=PROFILES, default="laptop")
    profile = parser.parse_args(arguments).profile
    os.environ.setdefault("QSFT_COMMAND", f"{parser.prog} --profile {profile}")
    settings = {"smoke": smoke, "laptop": laptop, "gpu": gpu or laptop}
    return notebook.start(f"benchmark_{name}", profile=profile, seed=0, settings=settings)


def interleaved_seconds(sides: Sides, repetitions: int) -> dict[str, list[float]]:
    """Seconds of each side, by turns, after one warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repetition in range(repetitions + 1):
        for name in list(sides) if repetition % 2 else list(reversed(sides)):
            began = time.perf_counter()
            sides[name]()
            seconds[name].append(time.perf_counter() - began)
    return {name: times[1:] for name, times in seconds.items()}


def ratio(numerator: list[float], denominator: list[float]) -> dict[str, float]:
    """Median of the paired ratios, called "mean" as in every result, and its interval."""
    ratios = np.divide(numerator, denominator)
    resampled = np.random.default_rng(0).choice(ratios, (10_000, len(ratios)))
    low, high = np.percentile(np.median(resampled, axis=1), [2.5, 97.5])
    return {"mean": float(np.median(ratios)), "low": float(low), "high": float(high)}


def row(
    what: str, tokens: int, hidden: int, value: dict | float, goal: float | None
) -> dict[str, Any]:
    """One row of the table; a goal is met when the median is no larger."""
    median = value["mean"] if isinstance(value, dict) else value
    return {
        "ratio": what,
        "tokens": tokens,
        "hidden size": hidden,
        "median [95 % interval]": value,
        "goal": goal,
        "met": None if goal is None else "yes" if median <= goal else "no",
    }


def record(
    run: notebook.Run,
    rows: list[dict[str, Any]],
    headline: dict[str, Any],
    raw: dict[str, Any],
    **further: list[dict[str, Any]],
) -> None:
    """Print the table, and further ones by what their names add to its name; write the result."""
    print(f"{run.threads} threads, {run.device}, torch {torch.__version__}.")
    tables = {run.name: rows} | {f"{run.name}_{name}": more for name, more in further.items()}
    for table in tables.values():
        print(f"\n{markdown_table(table)}")
    run.record(headline=headline, tables=tables, raw=raw)
