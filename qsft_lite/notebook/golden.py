"""Golden numbers: how headline numbers spread over seeds, and whether a run is where it should be.

``python -m qsft_lite.notebook check`` runs notebooks with fresh seeds and measures the spread;
``data/spread`` keeps it. ``python -m qsft_lite.results compare`` holds a run against the committed
results: the same settings on another machine give the same numbers, or at least plausible ones.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import scipy.stats

from qsft_lite.notebook import runner
from qsft_lite.results import (
    format_cell,
    load_result,
    load_results,
    name_of,
    project_root,
    provenance,
    replace_file,
)

SPREADS = Path("data") / "spread"

SAME = {"rel_tol": 1e-4, "abs_tol": 1e-8}
"""Numbers that only the order of float32 sums tells apart."""

CONFIDENCE = 0.999
"""Of the interval of one number: of a thousand right ones, one is called different."""


# Measuring the spread


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
    try:
        executed = runner.execute(
            path, {"PROFILE": profile, "SEED": seed}, variables, allow_errors=True
        )
    except runner.NotebookError as error:
        executed = error.partial
        failures = failing_cells(executed) if executed is not None else []
        failures = failures or [str(error)]  # such as a kernel that died
    seconds = time.perf_counter() - started
    if executed is not None:
        replace_file(folder / path.name, nbformat.writes(executed).encode())
    return seconds, load_result(recorded) if recorded.exists() else None, failures


def failing_cells(notebook: nbformat.NotebookNode) -> list[str]:
    """Number among the code cells, first line and error of every cell that failed."""
    lines = []
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and not runner.added(cell)]
    for number, cell in enumerate(cells, 1):
        for output in cell.outputs:
            if output.output_type == "error":
                first = (cell.source.strip().splitlines() or [""])[0]
                why = (str(output.evalue).splitlines() or [""])[0]
                lines.append(f"code cell {number} ({first!r}): {output.ename}: {why}")
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


def number(value: float | dict[str, float]) -> float:
    """A headline number, or the mean of one that has an interval."""
    return value["mean"] if isinstance(value, dict) else value


def _command(path: Path, seeds: Sequence[int], threads: Sequence[int], profile: str) -> str:
    words = ["python", "-m", "qsft_lite.notebook", "check", path.as_posix()]
    words += ["--seeds", str(len(seeds)), "--first-seed", str(seeds[0]), "--profile", profile]
    return shlex.join(words + (["--threads", *map(str, threads)] if threads else []))


def _spread_table(spread: dict[str, Any]) -> str:
    columns = ("mean", "least", "greatest", "deviation")
    width = max(map(len, spread["headline"]), default=0)
    lines = [f"{spread['name']}:{'':{width}}" + "".join(f"{c:>12}" for c in columns)]
    indent = len(spread["name"]) + 1
    for name, row in spread["headline"].items():
        cells = "".join(f"{format_cell(row[column]):>12}" for column in columns)
        lines.append(f"{name:<{width + indent}}{cells}")
    return "\n".join(lines)


# Comparing a run


def interval(row: dict[str, Any]) -> tuple[float, float]:
    """Where one more run's number should lie, given the spread of n seeds.

    The prediction interval of a normal variable, of CONFIDENCE: mean -+ t s sqrt(1 + 1/n), with
    Student's t of n - 1 degrees of freedom and the standard deviation s over the seeds; where s is
    0, the mean alone. A run of the committed seed on another machine is closer to the committed
    number than another seed's would be, so for it this is on the safe side.

    Raises:
        ValueError: the spread has one seed only.
    """
    if row["seeds"] < 2:
        raise ValueError("a spread needs at least two seeds")
    t = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, row["seeds"] - 1)
    reach = t * row["deviation"] * math.sqrt(1 + 1 / row["seeds"])
    return row["mean"] - reach, row["mean"] + reach


def compare(folder: Path, data: Path | None = None) -> int:
    """Hold the results in ``folder`` against the committed ones; print; return the exit status.

    A number is as expected where it is the committed one up to rounding (SAME), or lies in
    ``interval`` of its spread. A number that all seeds agree on has to be the same. Where there is
    no spread yet, another number is told and not judged.

    Args:
        folder: results of a run, such as build/laptop/results.
        data: the folder with the committed ``results`` and ``spread``, by default the checkout's.

    Returns:
        1 where a number differs, or there was nothing to compare; else 0.
    """
    data = project_root() / "data" if data is None else data
    found = load_results(folder)
    compared, different, unknown = 0, [], 0
    for result in found:
        path = data / "results" / name_of(result)
        committed = load_result(path) if path.exists() else None
        if why := _no_comparison(result, committed):
            print(f"{result['name']}: cannot be compared: {why}")
            continue
        compared += 1
        judged = [
            (name, *judge(name, result["headline"], committed["headline"], spread))
            for spread in [_committed_spread(data, committed)]
            for name in {**committed["headline"], **result["headline"]}
        ]
        counts = {kind: sum(k == kind for _, k, _ in judged) for kind in ("same", "within", "?")}
        unknown += counts["?"]
        if any(kind == "different" for _, kind, _ in judged):
            different.append(result["name"])
            print(f"{result['name']}: DIFFERENT")
        else:
            told = [f"{counts['same']} the same", f"{counts['within']} within the spread"]
            told += [f"{counts['?']} without a spread yet"] if counts["?"] else []
            print(f"{result['name']}: as expected on this machine ({', '.join(told)})")
        for name, kind, why in judged:
            if kind in ("different", "?"):
                print(f"  {name}: {why}")
        if result["data_hash"] != committed["data_hash"]:
            print("  its data are others (data_hash)")
    if not compared:
        print(f"{folder}: nothing to compare ({len(found)} results): run the notebooks first")
        return 1
    if different:
        print(f"Other than expected: {', '.join(different)}.")
        return 1
    if unknown:
        print(f"Nothing differs from what is known; without a spread, not judged: {unknown}.")
    else:
        print("As expected on this machine.")
    return 0


def _no_comparison(result: dict[str, Any], committed: dict[str, Any] | None) -> str | None:
    """Why the two are not of the same run; None where they are."""
    if committed is None:
        return f"nothing is committed at the profile {result['profile']}"
    for key in ("seed", "settings"):
        if result[key] != committed[key]:
            return f"{key} {_short(result[key])} here, {_short(committed[key])} committed"
    here, there = (_parameters(r["command"]) for r in (result, committed))
    if here != there:
        return f"parameters {here} here, {there} committed"
    return None


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 200 else f"{text[:200]}..."


def _parameters(command: str) -> dict[str, str]:
    """The parameters in a recorded command, but those that results hold anyway."""
    words = shlex.split(command)
    pairs = {n: v for p, n, v in zip(words, words[1:], words[2:], strict=False) if p == "-p"}
    return {name: value for name, value in pairs.items() if name not in ("PROFILE", "SEED")}


def _committed_spread(data: Path, committed: dict[str, Any]) -> dict[str, Any]:
    """Rows of the spread by number; {} where there is none of these settings."""
    path = data / "spread" / name_of(committed)
    if not path.exists():
        return {}
    try:
        spread = json.loads(path.read_text(encoding="utf-8"))
        return spread["headline"] if spread["settings"] == committed["settings"] else {}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a spread ({error!r}); measure it again") from error


def judge(
    name: str, here: dict[str, Any], there: dict[str, Any], spread: dict[str, Any]
) -> tuple[str, str]:
    """One of "same", "within", "different" and "?" (no spread), and the numbers in words."""
    if name not in here or name not in there:
        return "different", "not here" if name not in here else "not committed"
    mine, committed = number(here[name]), number(there[name])
    told = f"{mine:.6g} here, {committed:.6g} committed"
    if math.isclose(mine, committed, **SAME):
        return "same", told
    row = spread.get(name)
    if row is None or row["seeds"] < 2:
        return "?", f"{told}, no spread yet"
    low, high = interval(row)
    told += f", expected {low:.6g} to {high:.6g} (spread of {row['seeds']} seeds)"
    inside = low <= mine <= high or math.isclose(mine, row["mean"], **SAME)
    return ("within" if inside else "different"), told


def main(arguments: list[str] | None = None) -> int:
    """The command line of ``compare``; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m qsft_lite.results compare")
    help_text = "results of a run (default: build/laptop/results)"
    default = Path("build") / "laptop" / "results"
    parser.add_argument("folder", type=Path, nargs="?", default=default, help=help_text)
    try:
        return compare(parser.parse_args(arguments).folder)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
