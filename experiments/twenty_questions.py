"""Every method on Twenty Questions, several seeds, paired games: the numbers of chapter 08's table.

    python -m experiments.twenty_questions --profile record

The settings, the grids and the seeds of the games were fixed before the run; training, choosing of
options and test games are those of `experiments.wordle`, whose functions do the work here. What
each training scored is kept in build/, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import transformers

from experiments import wordle
from qsft_lite import notebook
from qsft_lite.baselines import METHODS
from qsft_lite.data import RewardScale, data_hash, encode
from qsft_lite.envs import make
from qsft_lite.envs.twenty_questions_data import play_games, to_episodes
from qsft_lite.envs.twenty_questions_players import (
    InformationGainPlayer,
    OptimalPlayer,
    ScriptedPlayer,
)
from qsft_lite.envs.twenty_questions_rules import Thing, read_objects
from qsft_lite.evaluate import evaluate
from qsft_lite.models import line_tokenizer, small_model
from qsft_lite.results import RESULT_PROFILES, markdown_table, project_root

LOWEST = -20

RECORD = {
    "objects": 20,
    "games": 40_000,
    "ideas": 1,  # of the player that made the data, and how often it asks anything at all
    "noise": 0.3,
    "layers": 2,
    "width": 64,
    "batch rows": 16,
    "row length": 84,
    "behavior epochs": 1.0,
    "value epochs": 1.0,
    "learning rate": 3e-3,
    "muon": 1,
    "target rate": 0.04,
    "seeds": 3,
    "validation games": 500,
    "test games": 1_000,
}
SMOKE = {"objects": 6, "games": 300, "layers": 1, "width": 16, "validation games": 10}
SETTINGS = {
    "smoke": {**RECORD, **SMOKE, "seeds": 1, "test games": 20},
    "laptop": {**RECORD, "games": 20_000, "seeds": 1},
    "record": RECORD,
    "gpu": {**RECORD, "objects": 158, "games": 2_000_000, "layers": 4, "width": 256},
}
ALONG = {"train_behavior": True}
ROWS = {
    **{METHODS[name].title: (name, {}, None) for name in wordle.RIVALS},
    "Q-SFT (paper)": ("q_sft_paper", {}, ["p"]),
    "Q-SFT (ours)": ("q_sft", {"backup": "behavior", **ALONG}, ["p", "ratio"]),
    "Monte-Carlo returns": ("mc_returns", ALONG, ["ratio"]),
    "Random targets": ("random_targets", ALONG, ["ratio"]),
}


def some_objects(count: int) -> tuple[Thing, ...]:
    """Every k-th of the shipped objects, so that there are `count` of them from all over."""
    things = read_objects()
    return things[:: len(things) // count][:count]


class Task(wordle.Task):
    """One seed: its games, tokenizer and untrained model."""

    def __init__(self, settings: dict[str, Any], seed: int):
        self.settings, self.seed = settings, seed
        self.env = make("twenty_questions", objects=some_objects(settings["objects"]))
        rules = self.env.rules
        self.tokenizer = line_tokenizer(self.env.texts)
        self.acts = {"max_new_tokens": 1}  # a question is one token
        object_seed, player_seed = np.random.SeedSequence(seed).spawn(2)
        objects = np.random.default_rng(object_seed).integers(
            len(rules.names), size=settings["games"]
        )
        player = ScriptedPlayer(rules, player_seed, settings["ideas"], noise=settings["noise"])
        played = play_games(rules, player, objects)
        games = datasets.Dataset.from_dict(to_episodes(rules, played))
        self.data_hash = data_hash(games)
        self.data_mean = float(played.returns.mean())
        self.episodes = encode(games, self.tokenizer, scale=RewardScale(LOWEST, 0, "end"))
        self.model = small_model(
            self.tokenizer,
            layers=settings["layers"],
            width=settings["width"],
            heads=4,
            context=48,
            seed=seed,
        )

    def levels(self) -> dict[str, float]:
        """Mean scores of the reference players; that of the optimum is exact."""
        rules, games = self.env.rules, self.settings["test games"]
        careful = ScriptedPlayer(rules, 0, self.settings["ideas"])
        players = {"The data's player, careful": careful}
        players["Information gain"] = InformationGainPlayer(rules)
        played = {
            name: evaluate(player, self.env, games, wordle.TEST_SEED).mean
            for name, player in players.items()
        }
        return {**played, "Optimum": OptimalPlayer(rules).expected_score()}


def _on_a_line(seed: dict[str, Any]) -> dict[str, Any]:
    """The scores of one seed, with a method's returns on one line: a fifth of the file."""
    return {
        title: {
            score: {**one, "returns": " ".join(f"{value:.0f}" for value in one["returns"])}
            for score, one in scores.items()
        }
        for title, scores in seed.items()
    }


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.twenty_questions")
    parser.add_argument("--profile", choices=RESULT_PROFILES, default="record")
    parser.add_argument("--only", nargs="*", help="titles of rows; all without it")
    parser.add_argument("--output", type=Path, default=project_root() / "build" / "experiments")
    parser.add_argument("--name", default="twenty_questions_methods", help="of the result")
    for key, value in RECORD.items():
        parser.add_argument("--" + key.replace(" ", "-"), type=type(value), dest=key)
    options = vars(parser.parse_args(arguments))
    given = {key: options[key] for key in RECORD if options[key] is not None}
    command = ["python -m experiments.twenty_questions", f"--profile {options['profile']}"]
    command += [f"--{key.replace(' ', '-')} {value}" for key, value in given.items()]
    os.environ.setdefault("QSFT_COMMAND", " ".join(command))
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

    settings = {profile: {**values, **given} for profile, values in SETTINGS.items()}
    run = notebook.start(options["name"], profile=options["profile"], seed=0, settings=settings)
    only = options["only"]
    rows = {title: row for title, row in ROWS.items() if not only or title in only}
    kept = {key: value for key, value in run.settings.items() if key != "seeds"}
    identity = hashlib.sha256(json.dumps(kept).encode()).hexdigest()[:12]
    found, tasks = [], []
    for seed in range(run.settings["seeds"]):
        tasks.append(Task(run.settings, seed))
        folder = options["output"] / options["name"] / identity / f"seed{seed}"
        found.append(wordle.run_seed(tasks[-1], rows, folder))
    levels = tasks[0].levels()
    data_mean = float(np.mean([task.data_mean for task in tasks]))
    shown = wordle.table(found, levels, data_mean, LOWEST)
    print(markdown_table(shown))
    print({"data": data_mean, **levels})
    run.record(
        headline={"Data": data_mean, **levels, **{row["method"]: row["score"] for row in shown}},
        tables={options["name"]: shown},
        raw={"objects": tasks[0].env.rules.names, "seeds": [_on_a_line(seed) for seed in found]},
        data_hash=" ".join(task.data_hash for task in tasks),
    )


if __name__ == "__main__":
    main()
