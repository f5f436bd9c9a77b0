"""Every method on Wordle, several seeds, paired games: the numbers of chapter 06's table.

    python -m experiments.wordle --profile record
    python -m experiments.wordle --profile record --study ablation
    python -m experiments.wordle --profile record --word-list wordle_official_400.txt --words 0
    python -m experiments.wordle --profile gpu --model smollm2 --format letters --games 20000

What is fixed before anything is seen: the settings below, the grids, and the seeds of the games.
Options are chosen on validation games, then every method plays the same test games. What each
training scored is kept in build/, so that an interrupted run goes on where it was.
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
import torch
import transformers

from qsft_lite import notebook
from qsft_lite.baselines import METHODS, TrainedMethod, choose_options, train
from qsft_lite.data import RewardScale, data_hash, encode
from qsft_lite.envs import generate, make
from qsft_lite.envs.wordle_players import ConsistentPlayer, InformationGainPlayer, OptimalPlayer
from qsft_lite.evaluate import bootstrap_interval, evaluate, normalized_score
from qsft_lite.models import (
    add_dummy,
    character_tokenizer,
    load_model,
    small_model,
    smollm2,
    spell_embeddings,
    word_tokenizer,
)
from qsft_lite.results import RESULT_PROFILES, markdown_table, project_root, replace_file
from qsft_lite.trainer import QSFTConfig

VALIDATION_SEED, TEST_SEED = 1_000, 2_000
RULES = "lmrl"
BEHAVIOR_P = 1 / 3

RECORD = {
    "words": 40,
    "games": 100_000,
    "format": "words",  # "letters" is LMRL-Gym's text
    "model": "scratch",  # or "smollm2", or the id or folder of any pretrained one
    "layers": 2,
    "width": 64,
    "spelled": 0,  # 1: embeddings start as sums of their letters' vectors
    "batch rows": 32,
    "row length": 56,
    "behavior epochs": 1.0,
    "value epochs": 1.0,
    "learning rate": 2e-3,
    "muon": 1,
    "target rate": 0.02,
    "seeds": 3,
    "validation games": 500,
    "test games": 1_000,
}
SMOKE = {"words": 8, "games": 500, "layers": 1, "width": 16, "validation games": 20}
SETTINGS = {
    "smoke": {**RECORD, **SMOKE, "seeds": 1, "test games": 50},
    "laptop": {**RECORD, "games": 30_000, "seeds": 1},
    "record": RECORD,
    "gpu": {**RECORD, "words": 0, "games": 1_000_000, "layers": 4, "width": 256},
}

# The rows of each study: title -> method, its options, and which scores its policy may act by.
RIVALS = ("filtered_bc", "return_conditioned", "ilql", "cql")
ALONG = {"train_behavior": True}
OURS = {"backup": "behavior", **ALONG}
STUDIES = {
    "methods": {
        **{METHODS[name].title: (name, {}, None) for name in RIVALS},
        "Q-SFT (paper)": ("q_sft_paper", {}, ["p"]),
        "Q-SFT (ours)": ("q_sft", OURS, ["p", "ratio"]),
        "Monte-Carlo returns": ("mc_returns", ALONG, ["ratio"]),
        "Random targets": ("random_targets", ALONG, ["ratio"]),
        "Q-SFT, new head": ("q_sft_new_head", OURS, ["ratio"]),
    },
    "ablation": {
        f"{leftover}, {backup}, pi {'trained along' if along else 'frozen'}": (
            "q_sft",
            {"leftover": leftover, "backup": backup, "train_behavior": along, **options},
            ["p", "ratio"],
        )
        for leftover, backup, along, options in [
            ("uniform", "max", False, {}),
            ("uniform", "support", True, {"support": 0.01}),
            ("dummy", "max", True, {}),
            ("dummy", "support", True, {"support": 0.01}),
            ("dummy", "policy", True, {"support": 0.01, "beta": 32.0}),
            ("dummy", "behavior", False, {}),
            ("dummy", "behavior", True, {}),
            ("dummy", "returns", True, {}),
        ]
    },
}
# Eight candidates for every method. The paper weighs by exp(beta p) alone.
BY_P = [{"beta": beta} for beta in (4.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)]
BY_VALUE = [
    {"beta": beta, "support": support}
    for beta in (128.0, 512.0)
    for support in (0.0, 0.2, 0.5, 0.9)
]


def word_list(path: str | None, words: int) -> list[str]:
    """Every k-th word of the list, so that there are `words` of them; 0 for all."""
    everything = list(make("wordle", rules=RULES, word_list=path).rules.words)
    return everything[:: len(everything) // words][:words] if words else everything


class Task:
    """One seed: its games, tokenizer and untrained model."""

    def __init__(self, words: list[str], settings: dict[str, Any], seed: int):
        self.settings, self.seed = settings, seed
        shared = {"rules": RULES, "word_list": words, "format": settings["format"]}
        self.env = make("wordle", **shared)
        self.model, self.tokenizer = self._new_model()
        # An action is one token, or six of letters; a pretrained tokenizer may take a few more.
        self.acts = {"max_new_tokens": 1 if settings["format"] == "words" else 12}
        games = generate("wordle", settings["games"], seed, p=BEHAVIOR_P, **shared)
        self.data_hash = data_hash(games)
        self.data_mean = float(np.mean([sum(reward) for reward in games["reward"]]))
        self.episodes = encode(games, self.tokenizer, scale=RewardScale(-6, 0, "end"))

    def _new_model(self):
        """The model before any training, and its tokenizer."""
        settings, name = self.settings, self.settings["model"]
        if name != "scratch":
            model, tokenizer = smollm2() if name == "smollm2" else load_model(name)
            add_dummy(model, tokenizer)
            return model, tokenizer
        of_format = {"words": word_tokenizer, "letters": character_tokenizer}
        tokenizer = of_format[settings["format"]](self.env.texts)
        model = small_model(
            tokenizer,
            layers=settings["layers"],
            width=settings["width"],
            heads=4,
            context=128,
            seed=self.seed,
        )
        if settings["spelled"]:
            groups = (self.env.rules.guess_texts, self.env.rules.feedback_texts)
            spell_embeddings(model, tokenizer, groups, seed=self.seed)
        return model, tokenizer

    def train(self, method: str, model, folder: Path, options: dict[str, Any]) -> TrainedMethod:
        """One method from the given weights."""
        settings = self.settings
        args = QSFTConfig(
            output_dir=str(folder),
            seed=self.seed,
            learning_rate=settings["learning rate"],
            muon=bool(settings["muon"]),
            adam_beta2=0.98,
            weight_decay=0.1,
            lr_scheduler_type="cosine",
            warmup_steps=50,
            num_train_epochs=settings["behavior epochs" if method == "bc" else "value epochs"],
            per_device_train_batch_size=settings["batch rows"],
            target_rate=settings["target rate"],
            logging_steps=100,
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
        )
        length = settings["row length"]
        return train(
            method, model, self.tokenizer, self.episodes, None, args, length=length, **options
        )

    def levels(self) -> dict[str, float]:
        """Mean scores of the reference players; that of the optimum is exact."""
        rules, games = self.env.rules, self.settings["test games"]
        players = {"Consistent": ConsistentPlayer, "Information gain": InformationGainPlayer}
        played = {
            name: evaluate(player(rules, seed=0), self.env, games, TEST_SEED).mean
            for name, player in players.items()
        }
        return {**played, "Optimum": OptimalPlayer(rules).expected_score()}


def scores_of(task: Task, trained: TrainedMethod, scores: list[str] | None) -> dict[str, Any]:
    """Choose options on validation games, play the test games; for each score p and p / pi."""
    found = {}
    for score in scores or [None]:
        grid = trained.grid if trained.values is None else BY_P if score == "p" else BY_VALUE
        grid = [{**options, "score": score} if score else options for options in grid]
        options, tried = choose_options(
            trained,
            task.env,
            task.settings["validation games"],
            VALIDATION_SEED,
            grid=grid,
            **task.acts,
        )
        policy = trained.policy(**options, **task.acts)
        result = evaluate(policy, task.env, task.settings["test games"], TEST_SEED)
        found[score or ""] = {
            "options": options,
            "tried": tried["mean"].tolist(),
            "returns": result.returns.tolist(),
            "success": result.success,
        }
    return found


def run_seed(task: Task, rows: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What each row of a study scored with one seed; finished rows are read, not run again."""
    cloned_folder = folder / "cloned"
    found = {}
    for title, (method, options, scores) in {"Behavior cloning": ("bc", {}, None), **rows}.items():
        key = hashlib.sha256(json.dumps([title, method, options, scores]).encode()).hexdigest()[:12]
        path = folder / f"{key}.json"
        if not path.exists():
            if method == "bc":
                trained = task.train("bc", task.model, folder, {})
                trained.behavior.save_pretrained(cloned_folder)
            else:
                cloned = transformers.AutoModelForCausalLM.from_pretrained(cloned_folder)
                trained = task.train(method, cloned, folder, options)
            scored = {"title": title, "scores": scores_of(task, trained, scores)}
            replace_file(path, json.dumps(scored).encode())
        found[title] = json.loads(path.read_text(encoding="utf-8"))["scores"]
        for score, one in found[title].items():
            mean = np.mean(one["returns"])
            print(f"seed {task.seed}: {title} {score} {mean:.3f} {one['options']}", flush=True)
    return found


def table(
    found: list[dict[str, Any]], levels: dict[str, float], data_mean: float, lowest: float = -6
) -> list[dict[str, Any]]:
    """A row for each method: mean over seeds and games, with a bootstrap over games.

    lowest: the score that is normalised to 0.

    A game's score is averaged over seeds before resampling: seeds share their test games.
    """
    rows = []
    best = levels["Information gain"]
    cloning = _paired(found, "Behavior cloning", "")
    for title in found[0]:
        for score in found[0][title]:
            games = _paired(found, title, score)
            low, high = bootstrap_interval(games)
            difference = games - cloning
            below, above = bootstrap_interval(difference)
            rows.append(
                {
                    "method": title + {"": "", "p": ", by p", "ratio": ", by p/pi"}[score],
                    "score": {"mean": games.mean(), "low": low, "high": high},
                    "over sharpened cloning": {
                        "mean": difference.mean(),
                        "low": below,
                        "high": above,
                    },
                    "seeds": ", ".join(
                        f"{np.mean(seed[title][score]['returns']):.2f}" for seed in found
                    ),
                    "normalised": normalized_score(games.mean(), lowest, data_mean, best),
                    "wins": float(np.mean([seed[title][score]["success"] for seed in found])),
                }
            )
    return rows


def _paired(found: list[dict[str, Any]], title: str, score: str) -> np.ndarray:
    return np.mean([seed[title][score]["returns"] for seed in found], axis=0)


def _with_digits(seed: dict[str, Any]) -> dict[str, Any]:
    """The scores of one seed, with wrong guesses as a digit for each game: a tenth of the file."""
    return {
        title: {
            score: {**one, "returns": "".join(f"{-value:.0f}" for value in one["returns"])}
            for score, one in scores.items()
        }
        for title, scores in seed.items()
    }


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.wordle")
    parser.add_argument("--profile", choices=RESULT_PROFILES, default="record")
    parser.add_argument("--study", choices=STUDIES, default="methods")
    parser.add_argument("--word-list", help="a file; the shipped list without it")
    parser.add_argument("--only", nargs="*", help="titles of rows; all without it")
    parser.add_argument("--output", type=Path, default=project_root() / "build" / "experiments")
    parser.add_argument("--name", help="of the result; wordle_STUDY without it")
    for key, value in RECORD.items():
        parser.add_argument("--" + key.replace(" ", "-"), type=type(value), dest=key)
    options = parser.parse_args(arguments)
    given = vars(options)
    settings = {
        profile: {**values, **{key: given[key] for key in RECORD if given[key] is not None}}
        for profile, values in SETTINGS.items()
    }
    command = ["python -m experiments.wordle"]
    for key, value in given.items():
        if value is not None and key not in ("only", "output"):
            value = Path(value).name if key == "word_list" else value
            command.append(f"--{key.replace(' ', '-').replace('_', '-')} {value}")
    os.environ.setdefault("QSFT_COMMAND", " ".join(command))
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

    name = options.name or f"wordle_{options.study}"
    run = notebook.start(name, profile=options.profile, seed=0, settings=settings)
    rows = STUDIES[options.study]
    rows = {title: row for title, row in rows.items() if not options.only or title in options.only}
    words = word_list(options.word_list, run.settings["words"])
    kept = {key: value for key, value in run.settings.items() if key != "seeds"}
    identity = hashlib.sha256(json.dumps([words, kept]).encode()).hexdigest()[:12]
    found, hashes, means = [], [], []
    for seed in range(run.settings["seeds"]):
        task = Task(words, run.settings, seed)
        folder = options.output / name / identity / f"seed{seed}"
        found.append(run_seed(task, rows, folder))
        hashes.append(task.data_hash)
        means.append(task.data_mean)
    levels = task.levels()
    data_mean = float(np.mean(means))
    shown = table(found, levels, data_mean)
    print(markdown_table(shown))
    print({"data": data_mean, **levels})
    chosen = {
        f"{row['method']}": row["score"] for row in shown if row["method"] != "Behavior cloning"
    }
    run.record(
        headline={"Data": data_mean, **levels, **chosen},
        tables={name: shown},
        raw={"words": words, "seeds": [_with_digits(seed) for seed in found]},
        data_hash=" ".join(hashes),
    )


if __name__ == "__main__":
    main()
