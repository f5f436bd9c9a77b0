"""How headline numbers spread over seeds: notebooks run with fresh ones, every cell.

The command line is ``python -m qsft_lite.notebook check``; ``data/spread`` keeps what it measures.
"""

from __future__ import annotations

import json
import math
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd

from qsft_lite.files import replace_file
from qsft_lite.notebook import runner
from qsft_lite.results import format_cell, load_result, name_of, provenance
from qsft_lite.results.compare import number

SPREADS = Path("data") / "spread"


def check(
    paths: Sequence[Path],
    *,
    seeds: Sequence[int],
    threads: Sequence[int] = (),
    profile: str = "laptop",
    output: Path = Path("build") / "check",
    write: bool = False,
) -> int:
    """Run notebooks with each seed, all cells whatever fails; print what fails and the spread.

    Args:
        paths: notebooks with the parameters PROFILE and SEED.
        seeds: those to run with.
        threads: CPU threads to run with, one after another; by default as the notebook chooses.
        profile: "smoke", "laptop" or "gpu".
        output: folder for what was executed, and for ``spread/<name>.<profile>.json``.
        write: whether to store the spreads of notebooks without a failing cell in ``data/spread``.

    Returns:
        The exit status: 1 if any cell failed, else 0.

    Raises:
        ParameterError: a notebook lacks PROFILE or SEED; before anything runs.
    """
    for path in paths:
        runner.read_checked(path, {"PROFILE": profile, "SEED": seeds[0]})
    runner.check_place(output / "a_notebook.ipynb")
    status = 0
    for path in paths:
        recorded, failed = [], False
        for count in threads or (None,):
            for seed in seeds:
                folder = output / (f"seed_{seed}" + (f"_threads_{count}" if count else ""))
                seconds, result, failures = _run_to_the_end(path, profile, seed, count, folder)
                recorded += [result] if result else []
                failed |= bool(failures)
                told = f"{path.stem}, seed {seed}" + (f", threads {count}" if count else "")
                print(f"{told}: {seconds:.0f} s, cells that failed: {len(failures)}", flush=True)
                for line in failures:
                    print(f"  {line}", flush=True)
        status |= failed
        if not recorded:
            print(f"{path.stem}: no run recorded its numbers")
            continue
        spread = spread_of(recorded)
        spread["command"] = _command(path, seeds, threads, profile)
        print(_spread_table(spread))
        folders = [output / "spread", *([SPREADS] if write and not failed else [])]
        for folder in folders:
            content = json.dumps(spread, indent=1, allow_nan=False) + "\n"
            replace_file(folder / name_of(spread), content.encode())
        if write and failed:
            print(f"{path.stem}: not stored in {SPREADS}, since cells failed")
    return status


def _run_to_the_end(
    path: Path, profile: str, seed: int, threads: int | None, folder: Path
) -> tuple[float, dict[str, Any] | None, list[str]]:
    """Seconds, what was recorded, and a line for each cell that failed."""
    results = (folder / "results").resolve()
    recorded = results / f"{path.stem}.{profile}.json"
    recorded.unlink(missing_ok=True)
    variables = {"QSFT_RESULTS": str(results), "QSFT_FIGURES": str((folder / "figures").resolve())}
    if threads is not None:
        variables |= {"QSFT_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    started, failures = time.perf_counter(), []
    parameters, output = {"PROFILE": profile, "SEED": seed}, folder / path.name
    try:
        runner.execute(path, parameters, output, variables, allow_errors=True)
    except runner.NotebookError as error:
        failures = [] if error.partial is None else failing_cells(error.partial)
        failures = failures or [str(error)]  # such as a kernel that died
    seconds = time.perf_counter() - started
    return seconds, load_result(recorded) if recorded.exists() else None, failures


def failing_cells(notebook: nbformat.NotebookNode) -> list[str]:
    """Number among the code cells, first line and error of every cell that failed."""
    lines = []
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and not runner.added(cell)]
    for place, cell in enumerate(cells, 1):
        for output in cell.outputs:
            if output.output_type == "error":
                first = (cell.source.strip().splitlines() or [""])[0]
                why = (str(output.evalue).splitlines() or [""])[0]
                lines.append(f"code cell {place} ({first!r}): {output.ename}: {why}")
    return lines


def spread_of(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The spread of the headline numbers of several results of one notebook.

    Of a number with an interval, its mean. ``deviation`` is the standard deviation over seeds,
    unbiased in the number of seeds: runs of one seed with several numbers of threads are not
    independent, and count as one. None where there is one seed only.
    """
    seeds = [result["seed"] for result in results]
    headline = {}
    for name in dict.fromkeys(name for result in results for name in result["headline"]):
        found = [r for r in results if name in r["headline"]]
        values = np.array([number(r["headline"][name]) for r in found], dtype=float)
        independent = len({r["seed"] for r in found})
        free = independent / (independent - 1) if independent > 1 else None
        headline[name] = {
            "mean": float(values.mean()),
            "least": float(values.min()),
            "greatest": float(values.max()),
            "deviation": None if free is None else math.sqrt(float(values.var()) * free),
            "seeds": independent,
            "values": values.tolist(),
        }
    first = results[0]
    return {
        "name": first["name"],
        "profile": first["profile"],
        "settings": first["settings"],
        **provenance(),
        "runs": [
            {"seed": seed, "threads": result["threads"], "seconds": result["seconds"]}
            for seed, result in zip(seeds, results, strict=True)
        ],
        "headline": headline,
    }


def _command(path: Path, seeds: Sequence[int], threads: Sequence[int], profile: str) -> str:
    words = ["python", "-m", "qsft_lite.notebook", "check", path.as_posix()]
    words += ["--seeds", str(len(seeds)), "--first-seed", str(seeds[0]), "--profile", profile]
    return shlex.join(words + (["--threads", *map(str, threads)] if threads else []))


def _spread_table(spread: dict[str, Any]) -> str:
    columns = ("mean", "least", "greatest", "deviation")
    rows = [[format_cell(row[column]) for column in columns] for row in spread["headline"].values()]
    return f"{spread['name']}:\n{pd.DataFrame(rows, spread['headline'], columns).to_string()}"
