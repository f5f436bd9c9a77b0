"""Wordle steps per second beside those of the package gym-wordle: ``python -m benchmarks.wordle``.

Both play random words of gym-wordle's 2,315 solutions on one core, by turns in one process; each
repetition gives one ratio. Ours reads and writes text, gym-wordle takes word numbers and writes
arrays. Actions are drawn before the clock starts; new games are part of the time, and only guesses
count as steps.

gym-wordle 0.1.3 is fetched with pip into a temporary folder, checked by its hash. It was written
for gym 0.19, which no longer installs: the few names that it takes from there are gymnasium's here.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
import types
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from benchmarks.loss import ratio
from qsft_lite import notebook
from qsft_lite.results import PROFILES, markdown_table
from qsft_lite.tasks.wordle.env import WordleVector

SMOKE = {"games": 100, "vector steps": 30, "single steps": 300, "repetitions": 2}
LAPTOP = {"games": 4000, "vector steps": 50, "single steps": 5_000, "repetitions": 20}

WHEEL = "gym_wordle-0.1.3-py3-none-any.whl"
WHEEL_SHA256 = "7edabb3ad988c7cf5a24d967f73b03ab79cd520a07af6b0e9797aea98a037feb"
GOAL = 100


def fetch_gym_wordle(folder: Path) -> None:
    """Unpack gym-wordle into folder; RuntimeError when no package index has it."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["gym-wordle==0.1.3", "--dest", str(folder)]
    answer = subprocess.run(command, capture_output=True, text=True)
    wheel = folder / WHEEL
    if answer.returncode or not wheel.exists():
        raise RuntimeError(f"gym-wordle could not be fetched: {answer.stderr.strip()[-300:]}")
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != WHEEL_SHA256:
        raise RuntimeError(f"{WHEEL} has the hash {found}, expected {WHEEL_SHA256}")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)


def import_gym_wordle(folder: Path) -> types.ModuleType:
    """The module gym_wordle.wordle, with gymnasium in place of gym, and nothing in place of sty."""

    class Env(gymnasium.Env):
        def seed(self, seed: int | None = None) -> None:
            """Gym 0.19 has it; here the spaces seed themselves."""

    names = ("bg", "fg", "ef", "rs")
    stand_ins = {
        "gym": {"Env": Env, "spaces": gymnasium.spaces},
        "gym.envs": {},
        "gym.envs.registration": {"register": lambda **_: None},
        "sty": {name: types.SimpleNamespace(green="", yellow="", rs="") for name in names},
    }
    for name, members in stand_ins.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(members)
    sys.path.insert(0, str(folder))
    import gym_wordle.wordle

    return gym_wordle.wordle


def single_steps_per_second(env: Any, actions: list[int]) -> float:
    """gym-wordle: one game after another."""
    env.reset()
    start = time.perf_counter()
    for action in actions:
        _, _, done, _ = env.step(action)
        if done:
            env.reset()
    return len(actions) / (time.perf_counter() - start)


def vector_steps_per_second(env: WordleVector, actions: list[list[str]]) -> float:
    """Ours: a step in all games at once."""
    env.reset()
    guesses = 0
    ended = np.zeros(env.num_envs, dtype=bool)
    start = time.perf_counter()
    for batch in actions:
        guesses += env.num_envs - int(ended.sum())  # the step after a game's end starts the next
        _, _, ended, _, _ = env.step(batch)
    return guesses / (time.perf_counter() - start)


def compare(settings: dict[str, int], gym_wordle: types.ModuleType) -> tuple[list[dict], dict]:
    """The rows of the table, and the steps per second they were made from."""
    rng = np.random.default_rng(0)
    theirs = gym_wordle.WordleEnv()
    words = [gym_wordle.to_english(word) for word in theirs.solution_space.words]
    numbers = [int(theirs.action_space.index_of(word)) for word in theirs.solution_space.words]
    rows, raw = [], {}
    for format in ("letters", "words"):
        ours = WordleVector(settings["games"], rules="standard", word_list=words, format=format)
        ours.reset(seed=0)
        rates: dict[str, list[float]] = {"ours": [], "gym-wordle": []}
        for repetition in range(settings["repetitions"] + 1):
            drawn = rng.integers(len(words), size=settings["single steps"])
            single = [numbers[index] for index in drawn]
            drawn = rng.integers(len(words), size=(settings["vector steps"], settings["games"]))
            # New strings, as from a model: their hashes are not known yet.
            texts = [["".join(ours.rules.guess_texts[i]) for i in row] for row in drawn]
            rate = {
                "ours": vector_steps_per_second(ours, texts),
                "gym-wordle": single_steps_per_second(theirs, single),
            }
            if repetition:  # the first one warms up
                for name, value in rate.items():
                    rates[name].append(value)
        value = ratio(rates["ours"], rates["gym-wordle"])
        raw[format] = rates
        rows.append(
            {
                "text": format,
                "games at once": settings["games"],
                "ours, steps/s": float(np.median(rates["ours"])),
                "gym-wordle, steps/s": float(np.median(rates["gym-wordle"])),
                "ratio, median [95 % interval]": value,
                "goal": GOAL,
                "met": "yes" if value["mean"] >= GOAL else "no",
            }
        )
    return rows, raw


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wordle")
    parser.add_argument("--profile", choices=PROFILES, default="laptop")
    options = parser.parse_args(arguments)
    command = f"python -m benchmarks.wordle --profile {options.profile}"
    os.environ.setdefault("QSFT_COMMAND", command)
    settings = {"smoke": SMOKE, "laptop": LAPTOP, "gpu": LAPTOP}
    run = notebook.start("benchmark_wordle", profile=options.profile, seed=0, settings=settings)
    run = replace(run, device=torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        try:
            fetch_gym_wordle(Path(folder))
        except RuntimeError as error:
            print(f"Skipped: {error}")
            return
        rows, raw = compare(run.settings, import_gym_wordle(Path(folder)))
    print(markdown_table(rows))
    headline = {
        f"Wordle steps / gym-wordle, {row['text']}": row["ratio, median [95 % interval]"]
        for row in rows
    }
    run.record(headline=headline, tables={"benchmark_wordle": rows}, raw=raw)


if __name__ == "__main__":
    main()
