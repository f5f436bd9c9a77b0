"""The project's own leaderboard: core-minutes on two cores to beat sharpened cloning.

One JSON file an entry in ``data/leaderboard``. Its numbers come from a recorded study in
``data/results`` and are compared with it: ``entry_of`` makes an entry from such a file.
"""

from __future__ import annotations

import datetime
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from qsft_lite.files import replace_file
from qsft_lite.results.literature import check_row
from qsft_lite.results.record import load_result
from qsft_lite.results.tables import format_cell, markdown_table

CLONE = "Sharpened cloning"
LEAST_NETWORKS = 3
"""An interval over the games of one or two networks says little of the next one."""
MOST_THREADS = 2

TASKS: dict[str, tuple[str, tuple[str, ...]]] = {
    "Wordle, 40 words": ("wordle_forty_words.record", ("rules", "words", "word_list", "p")),
    "Twenty Questions, 20 objects": (
        "twenty_questions_twenty_objects.record",
        ("objects", "ideas", "noise"),
    ),
    "Gridworld, corridor": ("gridworld_corridor.record", ("corridor", "gamma", "longest_game")),
    "Robot, tray": ("manipulation_words.record", ("task", "bins", "bin_kind", "noise")),
    "WebShop, our products": ("webshop_methods.record", ("products",)),
}
"""Of each task a reference study, and the settings that an entry's study has to share with it.

The number of test games is shared, too, and the clone has to be as good as the reference's: at
least the lower end of its interval. Else a bad clone would be the cheapest one to beat.
"""

KEYS: dict[str, type | tuple[type, ...]] = {
    "task": str,
    "method": str,
    "row": str,
    "result": str,
    "core_minutes": (int, float),
    "core_minutes_of_each": list,
    "counted": list,
    "what_counts": str,
    "margin": dict,
    "clone": dict,
    "networks": int,
    "threads": int,
    "machine": str,
    "commit": str,
    "command": str,
    "date": str,
    "authors": list,
}
WHAT_COUNTS = (
    "wall time of the rows in `counted`, times the threads: making data, training, choosing "
    "options on validation games, the test games and what is measured beside them"
)


def entry_of(
    result: dict[str, Any],
    *,
    task: str,
    method: str,
    row: str,
    authors: list[str],
    after: tuple[str, ...] = (),
) -> dict[str, Any]:
    """An entry from what a study has recorded; see ``check_entry`` for what it must hold.

    Args:
        result: a study's result, with the seconds of each row and network in its raw part.
        task: one of TASKS.
        method: the name to be shown.
        row: the method's name in the study's table.
        after: rows that had to be trained before it, such as the one that it distils. The clone
            counts always.

    Raises:
        ValueError: the study has no such row, or recorded no times.
    """
    rows = {one["method"]: one for one in result["tables"].get(result["name"], [])}
    for name in (CLONE, row, *after):
        if name not in rows:
            raise ValueError(f"{result['name']} has no row {name!r}; it has {list(rows)}")
    counted = list(dict.fromkeys((CLONE, *after, row)))
    seeds = (result["raw"] or {}).get("seeds", [])
    each = [
        sum(_seconds(seed, name, result) for name in counted) * result["threads"] / 60
        for seed in seeds
    ]
    return {
        "task": task,
        "method": method,
        "row": row,
        "result": f"{result['name']}.{result['profile']}",
        "core_minutes": float(np.mean(each)) if each else 0.0,
        "core_minutes_of_each": each,
        "counted": counted,
        "what_counts": WHAT_COUNTS,
        "margin": rows[row]["over sharpened cloning"],
        "clone": rows[CLONE]["score"],
        "networks": len(seeds),
        "threads": result["threads"],
        "machine": f"{result['device']}, {result['platform']}",
        **{key: result[key] for key in ("commit", "command", "date")},
        "authors": list(authors),
    }


def _seconds(seed: dict[str, Any], row: str, result: dict[str, Any]) -> float:
    title = re.sub(r", by p(/pi)?$", "", row)
    for score in seed.get(title, {}).values():
        if "seconds" in score:
            return float(score["seconds"])
    raise ValueError(f"{result['name']} recorded no seconds of {row!r}: an older study")


def check_entry(entry: Any, place: str) -> None:
    """Raise ValueError, naming ``place``, the key and what is wanted, for a wrong entry.

    An entry has the keys of KEYS, a task of TASKS, one time above 0 for each of at least
    LEAST_NETWORKS networks, and a margin whose whole interval is above 0.
    """
    check_row(entry, KEYS, place)
    if entry["task"] not in TASKS:
        raise ValueError(f"{place}: task {entry['task']!r} is not one of {list(TASKS)}")
    for key in ("margin", "clone"):
        _check_interval(entry[key], f"{place}: {key}")
    if entry["margin"]["low"] <= 0:
        shown = format_cell(entry["margin"])
        raise ValueError(f"{place}: margin {shown} is not above 0: nothing was beaten")
    if entry["networks"] < LEAST_NETWORKS:
        raise ValueError(f"{place}: {LEAST_NETWORKS} networks are needed, not {entry['networks']}")
    each = entry["core_minutes_of_each"]
    if len(each) != entry["networks"] or not all(_is_number(one) and one > 0 for one in each):
        raise ValueError(f"{place}: core_minutes_of_each needs a time above 0 for each network")
    if not math.isclose(entry["core_minutes"], np.mean(each), rel_tol=1e-6):
        raise ValueError(f"{place}: core_minutes is not the mean of core_minutes_of_each")
    if not 1 <= entry["threads"] <= MOST_THREADS:
        raise ValueError(f"{place}: at most {MOST_THREADS} threads, not {entry['threads']}")
    if not entry["machine"].startswith("cpu"):
        raise ValueError(f"{place}: the board is for CPUs, not {entry['machine']!r}")
    if not {CLONE, entry["row"]} <= set(entry["counted"]):
        raise ValueError(f"{place}: counted must name {CLONE!r} and {entry['row']!r}")
    if not re.fullmatch(r"[0-9a-f]{7,40}", entry["commit"]):
        raise ValueError(f"{place}: commit {entry['commit']!r} is no commit")
    if not all(isinstance(name, str) and name for name in entry["authors"]):
        raise ValueError(f"{place}: authors are names")
    try:
        datetime.datetime.fromisoformat(entry["date"])
    except ValueError as error:
        raise ValueError(f"{place}: date {entry['date']!r} is not an ISO date") from error


def _check_interval(value: dict[str, Any], place: str) -> None:
    keys = ("mean", "low", "high")
    if sorted(value) != sorted(keys) or not all(_is_number(value[key]) for key in keys):
        raise ValueError(f"{place} needs the numbers mean, low and high, not {value}")
    if not value["low"] <= value["mean"] <= value["high"]:
        raise ValueError(f"{place}: low <= mean <= high must hold, not {value}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def check_against(entry: dict[str, Any], results: Path, place: str) -> None:
    """Raise ValueError unless an entry's numbers are those of its study, on its task's terms.

    results: the folder of recorded results, with the entry's study and its task's reference.
    """
    result = load_result(results / f"{entry['result']}.json")
    after = tuple(name for name in entry["counted"] if name not in (CLONE, entry["row"]))
    told = {key: entry[key] for key in ("task", "method", "row", "authors")}
    there = entry_of(result, **told, after=after)
    if different := [key for key in KEYS if entry[key] != there[key]]:
        raise ValueError(f"{place}: {different} differ from those of {entry['result']}")
    if result["dirty"]:
        raise ValueError(f"{place}: {entry['result']} was recorded with local changes")
    name, same = TASKS[entry["task"]]
    reference = load_result(results / f"{name}.json")
    for key in (*same, "test_games"):
        here, wanted = result["settings"].get(key), reference["settings"].get(key)
        if here != wanted:
            raise ValueError(f"{place}: setting {key} is {here!r}, on the board {wanted!r}")
    [bar] = [r["score"] for r in reference["tables"][reference["name"]] if r["method"] == CLONE]
    if entry["clone"]["mean"] < bar["low"]:
        shown = format_cell(entry["clone"]["mean"])
        raise ValueError(f"{place}: its clone has {shown}, the board's {format_cell(bar)}")


def load_entries(folder: Path, results: Path) -> list[dict[str, Any]]:
    """All entries in a folder, checked, by task and core-minutes; ValueError names the file."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: not readable as JSON ({error})") from error
        check_entry(entry, str(path))
        check_against(entry, results, str(path))
        found.append(entry)
    return sorted(
        found, key=lambda entry: (list(TASKS).index(entry["task"]), entry["core_minutes"])
    )


def write_entry(entry: dict[str, Any], root: Path) -> Path:
    """Check an entry, write it into ``root/data/leaderboard``, and return its path."""
    check_entry(entry, entry["method"])
    check_against(entry, root / "data" / "results", entry["method"])
    words = "_".join((entry["result"].split(".")[0], entry["method"]))
    path = root / "data" / "leaderboard" / f"{_slug(words)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, (json.dumps(entry, indent=1, ensure_ascii=False) + "\n").encode())
    return path


def _slug(words: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")


def table(root: Path) -> str:
    """The leaderboard of ``root/data/leaderboard`` as a Markdown table."""
    rows = []
    for entry in load_entries(root / "data" / "leaderboard", root / "data" / "results"):
        each = entry["core_minutes_of_each"]
        rows.append(
            {
                "task": entry["task"],
                "method": entry["method"],
                "core-minutes a network": entry["core_minutes"],
                "fastest to slowest network": f"{min(each):.1f} to {max(each):.1f}",
                "sharpened cloning": entry["clone"],
                "over it": entry["margin"],
                "networks": entry["networks"],
                "recorded in": f"`{entry['result']}`",
                "by": ", ".join(entry["authors"]),
            }
        )
    if not rows:
        raise ValueError(f"{root / 'data' / 'leaderboard'} holds no entry")
    return markdown_table(rows)
