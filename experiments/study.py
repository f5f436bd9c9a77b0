"""What the experiments share: every method on one task, several seeds, paired games.

What is fixed before anything is seen: an experiment's settings, the grids of ``choosing``, one for
all that has values, whatever its score, and one for clones, and the seeds of the games. Options are
chosen on validation games, then every method plays the same test games. What each training scored
is kept in a folder, so that an interrupted run goes on where it was.

    python -m experiments.study data/results/wordle_methods.record.json

computes the tables of recorded results anew from the scores that they hold; nothing is trained.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from scipy import stats

from qsft_lite import notebook
from qsft_lite.baselines import METHODS, TrainedMethod, train
from qsft_lite.baselines.choosing import CLONING_GRID, ENDS, GREEDY_BETA, VALUE_GRID, Grid, choose
from qsft_lite.evaluate import Evaluation, evaluate, normalized_score
from qsft_lite.files import replace_file
from qsft_lite.results import (
    RESULT_PROFILES,
    load_result,
    markdown_table,
    project_root,
    provenance,
    write_result,
)
from qsft_lite.trainer import QSFTConfig

VALIDATION_SEED, TEST_SEED = 1_000, 2_000

# A row of a study: its method, that method's options, and which scores its policy may act by.
Row = tuple[str, dict[str, Any], list[str] | None]
CLONING = "Behavior cloning"  # at its best temperature: what every other row is compared with
UNITS = "positions"  # in a record's raw part: what each test game starts from
ALONG = {"train_behavior": True}
METHOD_ROWS: dict[str, Row] = {
    **{
        METHODS[name].title: (name, {}, None)
        for name in ("filtered_bc", "return_conditioned", "ilql", "cql")
    },
    "Q-SFT (paper)": ("q_sft_paper", {}, ["p"]),
    "Q-SFT (ours)": ("q_sft", {"backup": "behavior", **ALONG}, ["p", "ratio"]),
    # Half of the steps on returns, then the backup: p begins as pi, which is too high a value.
    "Q-SFT (ours), returns first": (
        "q_sft",
        {"backup": "behavior", "returns_first": 0.5, **ALONG},
        ["ratio"],
    ),
    "Monte-Carlo returns": ("mc_returns", ALONG, ["ratio"]),
    "Random targets": ("random_targets", ALONG, ["ratio"]),
}


class Task:
    """One seed of a task: its games and its untrained model.

    A subclass sets env, model, tokenizer, episodes (as of data.encode), data_hash, data_mean (mean
    return of the data) and acts (options of every policy), and says what reference players score.
    """

    def __init__(self, settings: dict[str, Any], seed: int):
        self.settings, self.seed = settings, seed

    def levels(self) -> dict[str, float]:
        """Mean scores of the reference players on the test games."""
        raise NotImplementedError

    def measure(self, trained: TrainedMethod) -> dict[str, float]:
        """What else to record about a trained method, beside its scores."""
        return {}

    def policy(self, trained: TrainedMethod, options: dict[str, Any]) -> Any:
        """A trained method at play."""
        return trained.policy(**options, **self.acts)

    def describe(self, result: Evaluation) -> dict[str, float]:
        """What else to say of test games, beside their scores."""
        return {}

    def play(self, policy: Any, test: bool) -> Evaluation:
        """The policy's test games, or its validation games."""
        games = self.settings["test games" if test else "validation games"]
        return evaluate(policy, self.env, games, TEST_SEED if test else VALIDATION_SEED)

    def train(
        self, method: str, model: Any, folder: Path, options: dict[str, Any]
    ) -> TrainedMethod:
        """One method from the given weights."""
        settings, stage = self.settings, "behavior" if method == "bc" else "value"
        rate = settings["learning rate"]
        if stage == "value":
            rate = settings.get("value learning rate", rate)
        args = QSFTConfig(
            output_dir=str(folder),
            seed=self.seed,
            learning_rate=rate,
            muon=bool(settings["muon"]),
            adam_beta2=0.98,
            weight_decay=0.1,
            lr_scheduler_type="cosine",
            warmup_steps=50,
            num_train_epochs=settings[f"{stage} epochs"],
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


def grids_of(method: str, scores: list[str] | None) -> dict[str, Grid]:
    """The grid to choose from, for each score that a method's policy may act by; "" for none."""
    grid = CLONING_GRID if METHODS[method].family == "cloning" else VALUE_GRID
    return dict.fromkeys(scores or [""], grid)


def scores_of(task: Task, trained: TrainedMethod, grid: Grid, by: dict[str, str]) -> dict[str, Any]:
    """Choose options on validation games, play the test games; by: the score, if there are two."""

    def play(options: dict[str, Any], test: bool) -> Evaluation:
        return task.play(task.policy(trained, {**options, **by}), test)

    choice = choose(lambda options: play(options, test=False).mean, grid)
    if choice.message:
        print(choice.message, flush=True)
    result = play(choice.options, test=True)
    tried = [dict(row) for row in choice.tried]
    means = [row.pop("mean") for row in tried]
    return {
        "options": {**choice.options, **by},
        "grid": [{**options, **by} for options in tried],
        "tried": means,
        "returns": result.returns.tolist(),
        "success": result.success,
        "described": task.describe(result),
    }


def run_seed(task: Task, rows: dict[str, Row], folder: Path) -> dict[str, Any]:
    """What each row of a study scored with one seed; finished rows are read, not run again."""
    cloned_folder = folder / "cloned"
    found = {}
    for title, (method, options, scores) in {CLONING: ("bc", {}, None), **rows}.items():
        grids = grids_of(method, scores)
        kind = json.dumps([title, method, options, grids])
        path = folder / f"{hashlib.sha256(kind.encode()).hexdigest()[:12]}.json"
        if not path.exists():
            started = time.perf_counter()
            if method == "bc" and not cloned_folder.exists():
                trained = task.train("bc", task.model, folder, {})
                aside = folder / f".cloned.{os.getpid()}"
                trained.behavior.save_pretrained(aside)
                os.replace(aside, cloned_folder)
            cloned = transformers.AutoModelForCausalLM.from_pretrained(cloned_folder).eval()
            if method == "bc":
                trained = TrainedMethod("bc", {}, cloned, None, task.tokenizer, "", [])
            else:
                trained = task.train(method, cloned, folder, options)
            scored = {
                "title": title,
                "measured": task.measure(trained),
                "scores": {
                    score: scores_of(task, trained, grid, {"score": score} if score else {})
                    for score, grid in grids.items()
                },
                "seconds": time.perf_counter() - started,
                "commit": provenance()["commit"],
            }
            replace_file(path, json.dumps(scored).encode())
        found[title] = json.loads(path.read_text(encoding="utf-8"))
        if found[title].get("measured"):
            print(f"seed {task.seed}: {title} {found[title]['measured']}", flush=True)
        for score, one in found[title]["scores"].items():
            mean = np.mean(one["returns"])
            print(f"seed {task.seed}: {title} {score} {mean:.3f} {one['options']}", flush=True)
    return found


@torch.no_grad()
def next_logits(model: Any, ids: list[list[int]]) -> torch.Tensor:
    """(B, V) float32, on the CPU, of what follows rows of token ids, all of one length."""
    device = next(model.parameters()).device
    logits = model(input_ids=torch.tensor(ids, device=device), logits_to_keep=1).logits
    return logits[:, -1].float().cpu()


def table(
    found: list[dict[str, Any]],
    lowest: float,
    data_mean: float,
    best: float,
    units: list[Any] | None = None,
) -> list[dict[str, Any]]:
    """A row for each method, see ``score_rows``, with normalised scores and what else is known.

    lowest, data_mean, best: the scores that are normalised to 0, 50 and 100.
    """
    rows = []
    for row, (title, score) in zip(score_rows(found, units), _keys(found), strict=True):
        entries = [seed[title]["scores"][score] for seed in found]
        described = [entry.get("described", {}) for entry in entries]
        mean = max(row["score"]["mean"], lowest)
        known = lowest < data_mean < best
        rows.append(
            {
                **row,
                "normalised": normalized_score(mean, lowest, data_mean, best) if known else None,
                "wins": float(np.mean([entry["success"] for entry in entries])),
                **{name: _mean([one[name] for one in described]) for name in described[0]},
            }
        )
    return rows


def score_rows(found: list[dict[str, Any]], units: list[Any] | None = None) -> list[dict[str, Any]]:
    """A row for each method: its score, and its score less sharpened cloning's, game by game.

    Intervals are those of ``interval``. The seeds' own means stand beside them, and how many seeds
    chose an option at an end of what was tried, beyond which a better one may lie: such a score is
    a lower bound of what the method can do.

    units: what each test game is about, see ``interval``.
    """

    def returns(title: str, score: str) -> np.ndarray:
        return np.array([seed[title]["scores"][score]["returns"] for seed in found])

    cloning, rows = returns(CLONING, ""), []
    for title, score in _keys(found):
        games = returns(title, score)
        edges = [
            edge
            for seed in found
            for edge in edges_of(
                *(seed[title]["scores"][score][key] for key in ("options", "grid"))
            )
        ]
        counts = {edge: f"{edge} ({edges.count(edge)} of {len(found)})" for edge in sorted(edges)}
        rows.append(
            {
                "method": title + {"": "", "p": ", by p", "ratio": ", by p/pi"}[score],
                "score": interval(games, units),
                "over sharpened cloning": interval(games - cloning, units),
                "seeds": ", ".join(f"{mean:.2f}" for mean in games.mean(1)),
                "at the grid's edge": ", ".join(counts.values()) or None,
            }
        )
    return rows


def interval(scores: np.ndarray, units: list[Any] | None = None) -> dict[str, float]:
    """The mean of scores (S, G) of S seeds in the same G games, and its 95 % interval.

    It says what other networks would score in other games. The seeds' part is a t interval of their
    means, on S - 1 degrees of freedom (a bootstrap of three seeds is far too narrow); the games'
    part is one of the games' means, of whose variance that within a game is left out, since the
    seeds' means have it already. Half widths add up as squares (as Graybill and Wang, 1980), and
    are never less than those over games alone: the means of three seeds may agree by chance. With
    one seed it is over games alone, and says nothing of other networks.

    units: what each game is about, where several are about the same, such as their start; those are
    not independent, and count as one. Each game its own without it.
    """
    scores = np.asarray(scores, dtype=float)
    mean = float(scores.mean())
    if units is not None:
        _, places = np.unique(units, return_inverse=True)
        sums = np.array([np.bincount(places, row) for row in scores])
        scores = sums * sums.shape[1] / scores.shape[1]  # has the same mean, over units
    seeds, games = scores.shape
    over_games = stats.t.ppf(0.975, games - 1) ** 2 * scores.mean(0).var(ddof=1) / games
    squared = over_games
    if seeds > 1:
        rest = scores - scores.mean(0) - scores.mean(1, keepdims=True) + scores.mean()
        within = (rest**2).sum() / ((seeds - 1) * (games - 1)) / scores.size
        within *= stats.t.ppf(0.975, games - 1) ** 2
        over_seeds = stats.t.ppf(0.975, seeds - 1) ** 2 * scores.mean(1).var(ddof=1) / seeds
        squared = max(over_seeds + max(over_games - within, 0.0), over_games)
    half = float(np.sqrt(squared))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def edges_of(options: dict[str, Any], grid: list[dict[str, Any]]) -> list[str]:
    """Of the chosen beta and temperature, those that are the least or the largest tried.

    grid: all options tried. Natural ends (greedy, beta 0, temperature 1) are no edges. A beta is
    compared with those tried at the same temperature, and not at all where one alone was.
    """

    def temperature(one: dict[str, Any]) -> float | None:
        return (
            0.0 if one.get("greedy") and one.get("beta") != GREEDY_BETA else one.get("temperature")
        )

    own = temperature(options)
    tried = {
        "beta": {one.get("beta") for one in grid if temperature(one) == own},
        "temperature": {temperature(one) for one in grid},
    }
    found = []
    for axis, chosen in (("beta", options.get("beta")), ("temperature", own)):
        values = sorted(tried[axis] - {None})
        if len(values) > 1 and chosen not in ENDS[axis]:
            found += [f"least {axis}"] * (chosen == values[0])
            found += [f"largest {axis}"] * (chosen == values[-1])
    return found


def _keys(found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Titles and scores, a pair for each row of a table."""
    return [(title, score) for title, row in found[0].items() for score in row["scores"]]


def _mean(numbers: list[float]) -> float | None:
    """The mean of those that are numbers; None for none."""
    known = [number for number in numbers if not np.isnan(number)]
    return float(np.mean(known)) if known else None


def measures(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each method with what was measured of it, means over seeds; none for none."""

    def mean(title: str, name: str) -> float | None:
        if name not in found[0][title]["measured"]:
            return None
        return float(np.mean([seed[title]["measured"][name] for seed in found]))

    titles = [title for title in found[0] if found[0][title].get("measured")]
    names = dict.fromkeys(name for title in titles for name in found[0][title]["measured"])
    return [{"method": title} | {name: mean(title, name) for name in names} for title in titles]


def _on_a_line(seed: dict[str, Any]) -> dict[str, Any]:
    """The scores of one seed, with returns, and the grid as JSON, each on one line: short files.

    Also of each method how long it took and the commit that ran it: a record is written at the end,
    perhaps by another.
    """
    return {
        title: {
            score: {
                **one,
                "grid": json.dumps(one["grid"]),
                "returns": " ".join(f"{value:.0f}" for value in one["returns"]),
                "seconds": row["seconds"],
                "commit": row["commit"],
            }
            for score, one in row["scores"].items()
        }
        for title, row in seed.items()
    }


def _from_lines(seed: dict[str, Any]) -> dict[str, Any]:
    """The inverse of ``_on_a_line``, for what a table is computed from."""

    def read(one: dict[str, Any]) -> dict[str, Any]:
        returns = [float(value) for value in one["returns"].split()]
        return {**one, "grid": json.loads(one["grid"]), "returns": returns}

    return {
        title: {"scores": {score: read(one) for score, one in row.items()}}
        for title, row in seed.items()
    }


def retable(path: Path) -> None:
    """Compute the scores, differences and edges of a recorded result's table anew, in its file.

    All else in it stays; "recomputed" says when and by which commit.
    """
    result = load_result(path)
    found = [_from_lines(seed) for seed in result["raw"]["seeds"]]
    rows = score_rows(found, result["raw"].get(UNITS))
    old = {row["method"]: row for row in result["tables"][result["name"]]}
    result["tables"][result["name"]] = [
        {
            **row,
            **{name: old[row["method"]][name] for name in old[row["method"]] if name not in row},
        }
        for row in rows
    ]
    result["headline"] |= {row["method"]: row["score"] for row in rows}
    result["recomputed"] = {key: provenance()[key] for key in ("date", "commit")}
    write_result(path.parent, result)


# The command line


def main(arguments: list[str] | None = None) -> None:
    """The command line: tables of recorded results, anew."""
    command_line = argparse.ArgumentParser(prog="python -m experiments.study", description=__doc__)
    command_line.add_argument("files", nargs="+", type=Path, help="data/results/*.record.json")
    for path in command_line.parse_args(arguments).files:
        retable(path)


def parser(module: str, record: dict[str, Any], name: str | None) -> argparse.ArgumentParser:
    """Options of every experiment: the profile, the rows, the folder, and each setting.

    name: of the result; None where the experiment works it out.
    """
    found = argparse.ArgumentParser(prog=f"python -m experiments.{module}")
    found.add_argument("--profile", choices=RESULT_PROFILES, default="record")
    found.add_argument("--only", nargs="*", help="titles of rows; all without it")
    found.add_argument(
        "--seed", type=int, help="run this seed alone, to be recorded by a call without --seed"
    )
    found.add_argument("--output", type=Path, default=project_root() / "build" / "experiments")
    found.add_argument("--name", default=name, help="of the result")
    for key, value in record.items():
        found.add_argument("--" + key.replace(" ", "-"), type=type(value), dest=key)
    return found


def start(
    module: str, options: dict[str, Any], profiles: dict[str, dict[str, Any]]
) -> notebook.Run:
    """The run of a command line's options; its settings are the profile's and those given."""
    settings = profiles[options["profile"]]
    given = {key: options[key] for key in settings if options[key] is not None}
    command = [f"python -m experiments.{module}"]
    for key, value in options.items():
        if value is not None and key not in ("output", "seed"):
            if key == "word_list":
                value = Path(value).name
            elif key == "only":
                value = shlex.join(value)
            command.append(f"--{key.replace(' ', '-').replace('_', '-')} {value}")
    os.environ.setdefault("QSFT_COMMAND", " ".join(command))
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    settings = {profile: {**values, **given} for profile, values in profiles.items()}
    return notebook.start(options["name"], profile=options["profile"], seed=0, settings=settings)


def run_study(
    run: notebook.Run,
    options: dict[str, Any],
    rows: dict[str, Row],
    make_task: Callable[[dict[str, Any], int], Task],
    *,
    same: Any = None,
    lowest: float,
    best: str,
    raw: Callable[[Task], dict[str, Any]],
) -> None:
    """All rows in all seeds, printed and recorded.

    Args:
        run: of ``start``.
        options: the command line's.
        rows: the study's; of these only the titles of --only, if given.
        make_task: from the settings and a seed.
        same: what else, beside the settings, tells one run from another.
        lowest: the score normalised to 0. best: the reference player whose score is 100.
        raw: what to record beside each seed's returns.
    """
    only = options["only"]
    unknown = sorted(set(only or []) - set(rows))
    if unknown:
        raise SystemExit(f"--only knows no row {unknown[0]!r}; there are: {', '.join(rows)}")
    rows = {title: row for title, row in rows.items() if only is None or title in only}
    kept = {key: value for key, value in run.settings.items() if key != "seeds"}
    identity = hashlib.sha256(json.dumps([same, kept]).encode()).hexdigest()[:12]
    found, hashes, means = [], [], []
    one = options["seed"]
    for seed in range(run.settings["seeds"]) if one is None else [one]:
        task = make_task(run.settings, seed)
        folder = options["output"] / options["name"] / identity / f"seed{seed}"
        found.append(run_seed(task, rows, folder))
        hashes.append(task.data_hash)
        means.append(task.data_mean)
    if one is not None:
        return
    levels = task.levels()
    data_mean = float(np.mean(means))
    beside = raw(task)
    shown = table(found, lowest, data_mean, levels[best], beside.get(UNITS))
    tables = {options["name"]: shown, f"{options['name']}_measured": measures(found)}
    tables = {name: rows for name, rows in tables.items() if rows}
    for rows in tables.values():
        print(markdown_table(rows))
    print({"data": data_mean, **levels})
    run.record(
        headline={"Data": data_mean, **levels, **{row["method"]: row["score"] for row in shown}},
        tables=tables,
        raw={**beside, "seeds": [_on_a_line(seed) for seed in found]},
        data_hash=" ".join(hashes),
    )


if __name__ == "__main__":
    main()
