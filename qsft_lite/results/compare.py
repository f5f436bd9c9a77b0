"""Whether a run is where it should be: its headline numbers beside the committed ones.

``data/spread`` holds how they spread over seeds (``python -m qsft_lite.notebook check`` measures
it): the same settings on another machine give the same numbers, or at least plausible ones.
"""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import scipy.stats

from qsft_lite.results.provenance import project_root
from qsft_lite.results.record import load_result, load_results, name_of

SAME = {"rel_tol": 1e-4, "abs_tol": 1e-8}
"""Numbers that only the order of float32 sums tells apart."""

CONFIDENCE = 0.999
"""Of the interval of one number: of a thousand right ones, one is called different."""


def interval(row: dict[str, Any]) -> tuple[float, float]:
    """Where one more run's number should lie, given the spread of n seeds.

    The prediction interval of a normal variable, of CONFIDENCE: mean -+ t s sqrt(1 + 1/n), with
    Student's t of n - 1 degrees of freedom and the standard deviation s over the seeds; where s is
    0, the mean alone. A run of the committed seed on another machine is closer to the committed
    number than another seed's would be, so for it this is on the safe side.
    """
    t = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, row["seeds"] - 1)
    reach = t * row["deviation"] * math.sqrt(1 + 1 / row["seeds"])
    return row["mean"] - reach, row["mean"] + reach


def compare(folder: Path, data: Path | None = None) -> int:
    """Hold the results in ``folder`` against the committed ones; print; return the exit status.

    A number is as expected where it is the committed one up to rounding (SAME), or lies in
    ``interval`` of its spread. A number that all seeds agree on has to be the same. Where there is
    no spread yet, another number is told and not judged.

    `folder` holds the results of a run, such as build/laptop/results, and `data` the committed
    ``results`` and ``spread``, by default the checkout's. The status is 1 where a number differs,
    or there was nothing to compare; else 0.
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
        spread = _committed_spread(data, committed)
        here, there = result["headline"], committed["headline"]
        judged = {name: judge(name, here, there, spread) for name in {**there, **here}}
        kinds = Counter(kind for kind, _ in judged.values())
        compared += 1
        unknown += kinds["?"]
        if kinds["different"]:
            different.append(result["name"])
            print(f"{result['name']}: DIFFERENT")
        else:
            told = f"{kinds['same']} the same, {kinds['within']} within the spread"
            told += f", {kinds['?']} without a spread yet" if kinds["?"] else ""
            print(f"{result['name']}: as expected on this machine ({told})")
        for name, (kind, why) in judged.items():
            if kind in ("different", "?"):
                print(f"  {name}: {why}")
        if result["data_hash"] != committed["data_hash"]:
            print("  its data are others (data_hash)")
    if not compared:
        print(f"{folder}: nothing to compare ({len(found)} results): run the notebooks first")
    elif different:
        print(f"Other than expected: {', '.join(different)}.")
    elif unknown:
        print(f"Nothing differs from what is known; without a spread, not judged: {unknown}.")
    else:
        print("As expected on this machine.")
    return int(not compared or bool(different))


def _no_comparison(result: dict[str, Any], committed: dict[str, Any] | None) -> str | None:
    """Why the two are not of the same run; None where they are."""
    if committed is None:
        return f"nothing is committed at the profile {result['profile']}"
    for key in ("seed", "settings"):
        if result[key] != committed[key]:
            return f"{key} {result[key]!s:.200} here, {committed[key]!s:.200} committed"
    here, there = (_parameters(r["command"]) for r in (result, committed))
    return None if here == there else f"parameters {here} here, {there} committed"


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


def number(value: float | dict[str, float]) -> float:
    """A headline number, or the mean of one that has an interval."""
    return value["mean"] if isinstance(value, dict) else value
