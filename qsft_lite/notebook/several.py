"""Many notebooks: all of them into a folder, or in place with what they record.

One after another or side by side, as the machine's memory allows; a failure stops none of the
others.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsft_lite.files import replace_file
from qsft_lite.notebook.parameters import ParameterError
from qsft_lite.notebook.runner import NotebookError, check_place, execute, termination_as_interrupt
from qsft_lite.results import format_cell, load_result, pages, project_root, usable_cpus
from qsft_lite.results.run import available_memory_mib

NOTEBOOKS = Path("notebooks")
INTERRUPTED = 130  # the exit status that shells give a program stopped by Ctrl-C


@dataclass
class Outcome:
    """How one notebook of several went; ``result`` is what it recorded."""

    name: str
    seconds: float
    error: Exception | None
    result: dict[str, Any] | None


def notebook_paths() -> list[Path]:
    """The notebooks in reading order: chapters, then templates."""
    paths = sorted(NOTEBOOKS.glob("*.ipynb"))
    if not paths:
        raise NotebookError(f"no notebooks in {NOTEBOOKS.resolve()}: run from the project's folder")
    return paths


def execute_in_place(paths: list[Path]) -> int:
    """Execute the notebooks in place, and store results, pictures and the pages' tables.

    Each runs as it stands (at laptop), then at smoke for its cost, with its exercises solved. All
    of them run aside first: if one fails, nothing is changed. Returns the exit status.
    """
    # A folder of its own for each, so that two may be recorded at once.
    aside = Path("build/record") / (paths[0].stem if len(paths) == 1 else "all")
    shutil.rmtree(aside, ignore_errors=True)
    laptop, smoke = aside / "laptop", aside / "smoke"
    status = execute_each(paths, {}, laptop)
    if not status:
        status = execute_each(paths, {"PROFILE": "smoke"}, smoke, solutions=True)
    if status:
        print("Nothing was recorded.", file=sys.stderr)
        return status
    for path in paths:
        replace_file(path, (laptop / path.name).read_bytes())
    for picture in laptop.glob("figures/*.png"):
        replace_file(Path("figures") / picture.name, picture.read_bytes())
    for result in aside.glob("*/results/*.json"):
        replace_file(Path("data/results") / result.name, result.read_bytes())
    root = Path.cwd()
    return pages.update(pages.marked_pages(root), root)


def execute_each(
    paths: list[Path],
    parameters: dict[str, Any],
    output: Path,
    jobs: int = 1,
    *,
    solutions: bool = False,
) -> int:
    """Execute notebooks into ``output``; print a table; return the exit status.

    Results go to ``<output>/results`` and pictures to ``<output>/figures``: nothing that is
    committed changes.
    """
    outcomes, status = [], 0
    check_place(output / "a_notebook.ipynb")
    execute_them = _one_by_one if jobs == 1 else _side_by_side
    try:
        for outcome in execute_them(paths, parameters, output, jobs, solutions):
            outcomes.append(outcome)
            if error := outcome.error:
                print(f"FAILED {error}\n{getattr(error, 'traceback', '')}", file=sys.stderr)
                status = 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        status = INTERRUPTED
    print(summary(sorted(outcomes, key=lambda outcome: outcome.name)))
    return status


def _one_by_one(
    paths: list[Path], parameters: dict[str, Any], output: Path, jobs: int, solutions: bool
) -> Iterator[Outcome]:
    for number, path in enumerate(paths, 1):
        print(f"started [{number}/{len(paths)}] {path.stem}", file=sys.stderr, flush=True)
        yield execute_one(path, parameters, output, {}, progress=True, solutions=solutions)


def _side_by_side(
    paths: list[Path], parameters: dict[str, Any], output: Path, jobs: int, solutions: bool
) -> Iterator[Outcome]:
    """Up to ``jobs`` notebooks at a time, each in a process of its own, the longest first.

    Times, memory and threads are those recorded, as far as there are any. A notebook starts when
    its memory fits beside that of those that run; one always runs.
    """
    known = {path: _recorded(path, parameters.get("PROFILE", "laptop")) for path in paths}
    waiting = sorted(paths, key=lambda path: -known[path].get("seconds", float("inf")))
    memory = {path: known[path].get("peak_memory_mib", 1000) for path in paths}
    share = max(usable_cpus() // jobs, 1)
    room = available_memory_mib()
    running: dict[Any, tuple[multiprocessing.Process, Path]] = {}
    context = multiprocessing.get_context("spawn")  # a fresh interpreter, as on every system
    done = 0
    try:
        with termination_as_interrupt():
            while waiting or running:
                used = sum(memory[path] for _, path in running.values())
                fits = [path for path in waiting if not running or used + memory[path] <= room]
                if fits and len(running) < jobs:
                    path = fits[0]
                    waiting.remove(path)
                    threads = str(min(known[path].get("threads", 1), share))
                    variables = {"QSFT_THREADS": os.environ.get("QSFT_THREADS", threads)}
                    ours, theirs = context.Pipe(duplex=False)
                    child = context.Process(
                        target=_execute_apart,
                        args=(theirs, path, parameters, output, variables, solutions),
                    )
                    child.start()
                    theirs.close()
                    running[ours] = child, path
                    print(f"started {path.stem}", file=sys.stderr)
                    continue
                for ready in multiprocessing.connection.wait(list(running)):
                    child, path = running[ready]
                    outcome = _received(ready, path)
                    child.join()
                    del running[ready]
                    done += 1
                    seconds = f"{outcome.seconds:.0f} s"
                    print(f"[{done}/{len(paths)}] {path.stem}: {seconds}", file=sys.stderr)
                    yield outcome
    finally:
        for child, _ in running.values():
            child.terminate()  # it stops its kernel
        for child, _ in running.values():
            child.join()


def _recorded(path: Path, profile: str) -> dict[str, Any]:
    """The committed result of a notebook; {} where there is none."""
    try:
        return load_result(project_root() / "data" / "results" / f"{path.stem}.{profile}.json")
    except FileNotFoundError:
        return {}


def _execute_apart(
    answer: Any,
    path: Path,
    parameters: dict[str, Any],
    output: Path,
    variables: dict[str, str],
    solutions: bool,
) -> None:
    """What a process of ``_side_by_side`` does: execute one notebook, and send its outcome."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # Ctrl-C is for the first process, which ends the others
    with suppress(KeyboardInterrupt):
        answer.send(execute_one(path, parameters, output, variables, solutions=solutions))


def _received(connection: Any, path: Path) -> Outcome:
    try:
        return connection.recv()
    except EOFError:
        error = NotebookError(f"{path.name}: its process ended early (out of memory, most often)")
        return Outcome(path.stem, 0.0, error, None)


def execute_one(
    path: Path,
    parameters: dict[str, Any],
    output: Path,
    variables: dict[str, str],
    **options: bool,
) -> Outcome:
    """Execute one notebook into a folder, with its results and pictures.

    ``options`` are those of `runner.execute`.
    """
    folder = (output / "results").resolve()
    for old in folder.glob(f"{path.stem}.*.json"):
        old.unlink()
    places = {"QSFT_RESULTS": str(folder), "QSFT_FIGURES": str((output / "figures").resolve())}
    started, error = time.perf_counter(), None
    try:
        execute(path, parameters, output / path.name, {**places, **variables}, **options)
    except (NotebookError, ParameterError) as failure:
        error = failure
    seconds = time.perf_counter() - started
    recorded = list(folder.glob(f"{path.stem}.*.json"))
    return Outcome(path.stem, seconds, error, load_result(recorded[0]) if recorded else None)


def summary(outcomes: list[Outcome]) -> str:
    """A table: notebook, seconds, peak memory, headline numbers or the failing cell."""
    width = max([len(outcome.name) for outcome in outcomes], default=8)
    lines = [f"\n{'notebook':<{width}}  seconds  peak MiB  headline numbers"]
    for outcome in outcomes:
        memory, told = "-", "-"
        if outcome.error is not None:
            told = f"FAILED {outcome.error}".splitlines()[0]
        elif outcome.result is not None:
            memory = f"{outcome.result['peak_memory_mib']:.0f}"
            numbers = outcome.result["headline"].items()
            told = "; ".join(f"{name}: {format_cell(value)}" for name, value in numbers)
        lines.append(f"{outcome.name:<{width}}  {outcome.seconds:7.1f}  {memory:>8}  {told}")
    return "\n".join(lines)
