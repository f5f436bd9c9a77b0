"""A whole study: every method with every seed, in a folder, from wherever it was stopped.

    build/runs/wordle_methods.gpu/
        settings.json
        seed0/bc/policy/            its trained networks, for TrainedMethod.from_pretrained
        seed0/bc/row.json           what it scored, and what was measured
        seed0/ilql/log.jsonl        of its training, a line each logging
        seed0/ilql/training/        checkpoints, until the training is finished
        seed0/ilql/tensorboard/

What is fixed before anything is seen: the settings, the grids of ``baselines.choosing``, one for
all that has values, whatever its score, and one for clones, and the seeds of the games. Options
are chosen on validation games, then every method plays the same test games.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.util
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState

from qsft_lite.baselines import TrainedMethod
from qsft_lite.baselines.choosing import Grid
from qsft_lite.envs import TASKS
from qsft_lite.evaluate import Evaluation
from qsft_lite.files import replace_file
from qsft_lite.results import markdown_table, project_root, provenance, start
from qsft_lite.study.progress import callbacks_of
from qsft_lite.study.rows import ABLATION, CLONING, ROWS, Row
from qsft_lite.study.settings import Settings, changed
from qsft_lite.study.tables import UNITS, measures, on_a_line, table
from qsft_lite.study.task import Task

__all__ = ["TASKS", "Study", "run"]


@dataclasses.dataclass(frozen=True)
class Study:
    """What to run: a task with its settings, rows and seeds, and the folder that keeps it all."""

    task: str
    kind: str  # "methods" or "ablation"
    profile: str
    settings: Settings
    rows: dict[str, Row]
    seeds: tuple[int, ...]
    folder: Path
    label: str | None = None  # of its result, see ``of``
    fully_shard: bool = False

    @classmethod
    def of(
        cls,
        task: str,
        profile: str,
        *,
        methods: Sequence[str] | None = None,
        seeds: Iterable[int] | None = None,
        changes: dict[str, Any] | Iterable[str] = (),
        kind: str = "methods",
        output: str | Path | None = None,
        label: str | None = None,
        fully_shard: bool = False,
    ) -> Study:
        """A study, with everything checked before anything is done.

        Args:
            task: one of envs.TASKS.
            profile: "smoke", "laptop", "record" or "gpu".
            methods: keys of rows beside cloning, which is always there; all of them if None.
            seeds: which ones; the first ones, as many as the settings say, if None.
            changes: settings to change, see settings.changed.
            kind: "methods", or "ablation" for the parts of Q-SFT one by one.
            output: the folder of all studies; build/runs if None.
            label: what the result is called after its task, small letters, digits and "_". With one
                it is recorded whatever the seeds; without, as the task's usual one, and only if all
                seeds of the profile were run.
            fully_shard: divide the networks among the processes of torchrun while they are trained
                (FSDP2). It is no setting: the folder and the result are the same.

        Raises:
            ValueError: an unknown name, with those that there are; fully_shard with one process.
        """
        module = module_of(task)
        if label is not None and not re.fullmatch("[a-z0-9_]+", label):
            raise ValueError(f"a label has small letters, digits and '_' only, not {label!r}")
        _check(profile, module.PROFILES, "profile")
        settings = changed(module.PROFILES[profile], changes)
        _check(kind, ("methods", "ablation"), "kind")
        known = ABLATION if kind == "ablation" else getattr(module, "ROWS", ROWS)
        for key in methods or ():
            _check(key, known, "method")
        chosen = [key for key in known if methods is None or key in methods]
        for key in chosen:
            if (teacher := known[key].teacher) not in (None, *chosen):
                raise ValueError(f"{key} learns from {teacher}: name {teacher} among the methods")
        if fully_shard and int(os.environ.get("WORLD_SIZE", 1)) < 2:
            raise ValueError(
                "--fully-shard divides the networks among processes, and there is one: start "
                "several with torchrun --nproc_per_node"
            )
        other = f".{_hash(settings)}" if settings != module.PROFILES[profile] else ""
        folder = Path(output or project_root() / "build" / "runs")
        return cls(
            task,
            kind,
            profile,
            settings,
            {key: known[key] for key in chosen},
            tuple(range(settings.seeds) if seeds is None else seeds),
            folder / f"{task}_{kind}.{profile}{other}",
            label,
            fully_shard,
        )

    @property
    def name(self) -> str:
        """Of the result."""
        return f"{self.task}_{self.label or self.kind}"

    def grid(self, row: Row) -> Grid:
        """What a row's options are chosen from; a task may have axes of its own, AXES."""
        grid = row.grid(self.profile, self.settings.coarse_grid)
        own = {} if self.profile == "smoke" else getattr(module_of(self.task), "AXES", {})
        return {name: own.get(name, values) for name, values in grid.items()}

    def of_seed(self, seed: int) -> Task:
        """The task of one seed; its data are made when they are asked for."""
        task = module_of(self.task).TASK(self.settings, seed)
        task.fully_shard = self.fully_shard
        return task

    def row_folder(self, seed: int, key: str) -> Path:
        """Where all of a row with one seed is kept."""
        return self.folder / f"seed{seed}" / key

    def trained(self, seed: int, key: str) -> TrainedMethod:
        """The networks of a finished row, on the GPU if there is one and they are not divided."""
        found = TrainedMethod.from_pretrained(self.row_folder(seed, key) / "policy")
        return found if self.fully_shard else _on_gpu(found)


def has_study(task: str) -> bool:
    """Whether a task has a study; a new one may be only played at first."""
    return importlib.util.find_spec(f"{TASKS[task][0]}.study") is not None


def module_of(task: str) -> Any:
    """The study module of a task: its PROFILES, TASK and, if its own, ROWS."""
    _check(task, [name for name in TASKS if has_study(name)], "task")
    return importlib.import_module(f"{TASKS[task][0]}.study")


def run(study: Study, *, quiet: bool = False, record: bool = True) -> dict[str, Any]:
    """All rows with all seeds, from wherever the last call got to; returns the result, recorded.

    Under torchrun all processes train, and the first one does all else. quiet: print no
    lines. record: write the result, if it has a label or all seeds of the profile were run.

    Returns:
        "headline", "tables" (with "<name>" and perhaps "<name>_measured") and "raw".

    Raises:
        ValueError: the folder holds a study with other settings.
        RuntimeError: another process trains there.
    """
    own = dataclasses.replace(study.settings, seeds=len(study.seeds))
    recorder = start(
        study.name,
        profile=study.profile,
        seed=0,
        threads=study.settings.threads or None,
        settings={
            name: dataclasses.asdict(own if name == study.profile else settings)
            for name, settings in module_of(study.task).PROFILES.items()
        },
    )
    say = (lambda *_: None) if quiet or not is_first() else _say
    check_settings(study)
    found = []
    for seed in study.seeds:
        task = study.of_seed(seed)
        rows = (CLONING, *study.rows.values())
        found.append({row.title: run_row(study, task, row, say) for row in rows})
    if not is_first():
        return {}
    result = result_of(study, task, found)
    for rows in result["tables"].values():
        say(markdown_table(rows))
    say({name: level for name, level in result["headline"].items() if isinstance(level, float)})
    whole = len(study.seeds) == study.settings.seeds or study.profile == "smoke"
    if record and (whole or study.label):
        hashes = " ".join(seed[CLONING.title]["hash"] for seed in found)
        recorder.record(**result, data_hash=hashes)
    return result


def result_of(study: Study, task: Task, found: list[dict[str, Any]]) -> dict[str, Any]:
    """Headline, tables and raw scores, from what all rows of each seed scored."""
    data_mean = float(np.mean([seed[CLONING.title]["data"] for seed in found]))
    levels, raw = task.levels(), task.raw()
    shown = table(found, task.lowest, data_mean, levels[task.best], raw.get(UNITS))
    tables = {study.name: shown, f"{study.name}_measured": measures(found)}
    scores = {row["method"]: row["score"] for row in shown}
    return {
        "headline": {"Data": data_mean, **levels, **scores},
        "tables": {name: rows for name, rows in tables.items() if rows},
        "raw": {**raw, "seeds": [on_a_line(seed) for seed in found]},
    }


def run_row(study: Study, task: Task, row: Row, say: Any = print) -> dict[str, Any]:
    """What one row scored with one seed: read where it is finished, otherwise worked out."""
    path = study.row_folder(task.seed, row.key) / "row.json"
    kind = json.loads(json.dumps([dataclasses.asdict(row), study.grid(row)]))

    def finished() -> dict[str, Any] | None:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return found if found.get("kind") == kind else None

    if found := finished():
        return found
    started = time.perf_counter()
    trained = train_row(study, task, row)
    say(f"seed {task.seed}: {row.title}, trained in {time.perf_counter() - started:.0f} s")
    if is_first():
        found = {"kind": kind, **score_row(study, task, _on_gpu(trained), row, say)}
        found["seconds"] = time.perf_counter() - started
        replace_file(path, json.dumps(found).encode())
    while not (found := finished()):  # the first process plays, the others wait for it
        time.sleep(1)
    return found


def train_row(study: Study, task: Task, row: Row) -> TrainedMethod:
    """A row's networks: read where they are finished, otherwise trained on from a checkpoint."""
    folder = study.row_folder(task.seed, row.key)
    options = {**row.options, **chosen_options(study, task.seed, row.teacher)}
    trained_as = json.loads(json.dumps([row.method, options]))
    finished = folder / "policy"
    if (folder / "trained.json").exists():
        if json.loads((folder / "trained.json").read_text()) != trained_as:
            raise ValueError(
                f"{finished} was trained with other options than {row.key} has now: "
                "delete its folder, or give another --output"
            )
        return study.trained(task.seed, row.key)
    watched = callbacks_of(folder, is_first(), bar=sys.stderr.isatty())
    training = folder / "training"
    if row.method == "bc":
        trained = task.clone(training, watched)
    else:
        start = study.trained(task.seed, row.teacher or CLONING.key)
        trained = task.train(row.method, start, training, watched, **options)
    if is_first():
        trained.save_pretrained(finished)
        replace_file(folder / "trained.json", json.dumps(trained_as).encode())
        shutil.rmtree(training, ignore_errors=True)
    PartialState(cpu=not torch.cuda.is_available()).wait_for_everyone()
    return trained


def chosen_options(study: Study, seed: int, key: str | None) -> dict[str, Any]:
    """The options that a finished row acts with; none for no row."""
    if key is None:
        return {}
    path = study.row_folder(seed, key) / "row.json"
    [one] = json.loads(path.read_text(encoding="utf-8"))["scores"].values()
    return one["options"]


def score_row(
    study: Study, task: Task, trained: TrainedMethod, row: Row, say: Any = print
) -> dict[str, Any]:
    """What trained networks are measured as, what they score, and what they were trained on."""
    grid = study.grid(row)
    scores = {score: play_row(task, trained, score, grid, say) for score in row.scores}
    for score, one in scores.items():
        mean = np.mean(one["returns"])
        say(f"seed {task.seed}: {row.title} {score} {mean:.3f} {one['options']}")
    return {
        "title": row.title,
        "measured": task.measure(trained),
        "scores": scores,
        "data": task.data_mean,
        "hash": task.data_hash,
        "commit": provenance()["commit"],
    }


def play_row(
    task: Task, trained: TrainedMethod, score: str, grid: Grid, say: Any = print
) -> dict[str, Any]:
    """Choose options on validation games, play the test games."""
    choice = task.choose(trained, score=score, grid=grid)
    if choice.message:
        say(choice.message)
    result: Evaluation = task.play(task.policy(trained, **choice.options), test=True)
    by = {"score": score} if score else {}
    tried = [dict(one) for one in choice.tried]
    means = [one.pop("mean") for one in tried]
    return {
        "options": choice.options,
        "grid": [{**options, **by} for options in tried],
        "tried": means,
        "returns": result.returns.tolist(),
        "success": result.success,
        "described": task.describe(result),
    }


def check_settings(study: Study) -> None:
    """Write the settings, or compare them with those of what is there."""
    path = study.folder / "settings.json"
    own = json.loads(json.dumps(dataclasses.asdict(study.settings)))
    if path.exists():
        there = json.loads(path.read_text(encoding="utf-8"))
        names = {name for name in {*own, *there} if own.get(name) != there.get(name)}
        if names := sorted(names - {"seeds"}):  # more seeds, or fewer, are the same study
            raise ValueError(
                f"{study.folder} holds a study with other settings ({', '.join(names)}): "
                "move it away, or give another --output"
            )
    elif is_first():
        replace_file(path, (json.dumps(own, indent=1) + "\n").encode())


def _on_gpu(trained: TrainedMethod) -> TrainedMethod:
    """The same, its networks on the GPU if there is one."""
    if torch.cuda.is_available():
        for model in filter(None, (trained.behavior, trained.values)):
            model.to("cuda")
    return trained


def is_first() -> bool:
    """Whether this is the process that writes; the only one without torchrun."""
    return int(os.environ.get("RANK", 0)) == 0


def _say(*words: Any) -> None:
    print(*words, flush=True)


def _hash(settings: Settings) -> str:
    text = json.dumps(dataclasses.asdict(settings), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _check(name: str, known: Iterable[str], what: str) -> None:
    if name not in known:
        raise ValueError(f"no {what} is called {name!r}; there are: {', '.join(known)}")
