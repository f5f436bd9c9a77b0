"""What one sees of a training: its log as a file, TensorBoard, a bar, and ``watch``.

python -m qsft_lite.study watch wordle --profile gpu
tensorboard --logdir build/runs
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback, is_tensorboard_available
from transformers.trainer_callback import ProgressCallback

__all__ = ["Log", "callbacks_of", "curves", "watch"]

LOG = "log.jsonl"
PLACE = {"step", "steps", "time"}  # of every line; one that has no more marks a start


class Log(TrainerCallback):
    """Writes every logged line to a file, with the time: one JSON object a line.

    A training that goes on from a checkpoint takes back the lines that came after it.
    """

    def __init__(self, path: Path):
        self.path = path

    def on_train_begin(self, args, state, control, **others):  # noqa: D102
        lines = [line for line in read_log(self.path) if line["step"] <= state.global_step]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        self._add(state, {})

    def on_log(self, args, state, control, logs=None, **others):  # noqa: D102
        self._add(state, logs or {})

    def _add(self, state: Any, logs: dict[str, Any]) -> None:
        place = {"step": state.global_step, "steps": state.max_steps, "time": time.time()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**place, **logs}) + "\n")


class _Bar(ProgressCallback):
    """The Trainer's bar, with the time left, without the logged lines in between."""

    def on_log(self, args, state, control, logs=None, **others):
        pass


def callbacks_of(folder: Path, is_first: bool, *, bar: bool) -> list[TrainerCallback]:
    """What a training reports to; nothing but for the first process."""
    if not is_first:
        return []
    callbacks: list[TrainerCallback] = [Log(folder / LOG)]
    if is_tensorboard_available():
        board = TensorBoardCallback()
        board.logging_dir = str(folder / "tensorboard")
        callbacks.append(board)
    return [*callbacks, _Bar()] if bar else callbacks


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; none where there is none, and without one that is half written."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def curves(folder: Path) -> pd.DataFrame:
    """All that was logged in a study's folder: a row each line, with its seed and row's key."""
    rows = [
        {"seed": int(path.parent.parent.name.removeprefix("seed")), "method": path.parent.name}
        | line
        for path in sorted(folder.glob(f"seed*/*/{LOG}"))
        for line in read_log(path)
    ]
    return pd.DataFrame(rows)


def states(folder: Path) -> Iterator[str]:
    """One line a row of a study: what it is doing, and how much of it is left."""
    for row in sorted(folder.glob("seed*/*")):
        place = f"{row.parent.name} {row.name:<20}"
        if (row / "row.json").exists():
            yield f"{place} finished"
        elif (row / "trained.json").exists():
            yield f"{place} trained, and playing"
        elif lines := read_log(row / LOG):
            yield f"{place} {_training(lines)}"


def _training(lines: list[dict[str, Any]]) -> str:
    """Of a log: step of steps, the last loss and target, and the time that is left."""
    last = lines[-1]
    # From where the training was last begun, or gone on with: a pause is no work.
    first = [line for line in lines if line.keys() == PLACE][-1]
    done, left = last["step"] - first["step"], last["steps"] - last["step"]
    words = [f"step {last['step']:,} of {last['steps']:,}"]
    words += [
        f"{name} {last[name]:.3g}"
        for name in ("loss", "target_mean", "clamped")
        if isinstance(last.get(name), (int, float))
    ]
    if done:
        minutes = left * (last["time"] - first["time"]) / done / 60
        words.append(f"{minutes:,.0f} min left" if minutes >= 2 else f"{60 * minutes:.0f} s left")
    silent = time.time() - last["time"]
    return ", ".join(words) + (f" (silent for {silent / 60:.0f} min)" if silent > 600 else "")


def watch(folder: Path, *, every: float = 10.0, once: bool = False) -> None:
    """Print where a study is, again and again until Ctrl-C, or once."""
    while True:
        lines = list(states(folder))
        print("\n".join(lines) if lines else f"{folder}: nothing has begun", flush=True)
        if once:
            return
        time.sleep(every)
        print()
