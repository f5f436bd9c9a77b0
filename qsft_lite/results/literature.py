"""What was published, and what this project says of it: the files in ``data/literature``, checked.

``published.json`` holds every published number with its source, ``beside.json`` says for each task
which of our rows stands beside them and what differs, ``claims.json`` what became of the paper's
claims. No number of ours is in them: those are read from ``data/results``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

VERDICTS = ("reproduced", "better", "worse", "not comparable", "unknown")
"""Of a task: our number beside the published one."""

CLAIM_VERDICTS = ("holds", "holds in part", "does not hold", "unknown")
"""Of a claim of the paper."""

# What the rows of each file hold, and the type it has in JSON.
NUMBER = (int, float)
PUBLISHED: dict[str, type | tuple[type, ...]] = {
    "task": str,
    "method": str,
    "metric": str,
    "value": (*NUMBER, type(None)),
    "normalised": (*NUMBER, type(None)),
    "source": str,
    "protocol": str,
    "note": str,
}
BESIDE: dict[str, type | tuple[type, ...]] = {
    **{"title": str, "task": str, "result": str, "clone": str, "ours": str, "shown_as": str},
    **{"ilql": str, "best": str, "low": NUMBER, "protocol": str, "differs": str},
    **{"verdict": str, "because": str, "chapter": str, "page": str},
}
CLAIM: dict[str, type | tuple[type, ...]] = {
    **{"claim": str, "where": str, "verdict": str, "because": str},
    **{"chapters": list, "pages": list, "waits_for": str},
}
MAY_BE_EMPTY = ("note", "ilql", "task", "waits_for", "chapters", "pages")

ROUNDING = 0.2
"""How far a normalised score may be from the raw one's: both are published with few digits."""


def check_row(row: Any, kinds: dict[str, type | tuple[type, ...]], place: str) -> None:
    """Raise ValueError, naming ``place`` and the key, unless a row holds exactly these keys."""
    if not isinstance(row, dict):
        raise ValueError(f"{place}: a JSON object is needed, not a {type(row).__name__}")
    for key in kinds:
        if key not in row:
            raise ValueError(f"{place}: key {key!r} is missing")
        if not isinstance(row[key], kinds[key]) or isinstance(row[key], bool):
            raise ValueError(f"{place}: key {key!r} has the wrong type: {row[key]!r}")
        if row[key] in ("", []) and key not in MAY_BE_EMPTY:
            raise ValueError(f"{place}: key {key!r} is empty")
    if unknown := sorted(set(row) - set(kinds)):
        raise ValueError(f"{place}: unknown keys {unknown}; known are {list(kinds)}")


def normalise(raw: float, low: float, middle: float, high: float) -> float:
    """LMRL-Gym's scale: 0 at ``low``, 50 at ``middle``, 100 at ``high``, two straight lines."""
    if raw < middle:
        return 50 * (raw - low) / (middle - low)
    return 50 + 50 * (raw - middle) / (high - middle)


def load_published(path: Path) -> dict[str, Any]:
    """The published numbers: ``sources``, ``scales`` of tasks, and ``numbers``, rows of PUBLISHED.

    A row without a number says in its note why. A normalised score beside a raw one has to be the
    raw one's by its task's scale.

    Raises:
        ValueError: a key is missing or of a wrong type, a source is unknown, a row has neither a
            number nor a note, or a raw and a normalised score contradict each other. The error
            names the file, the row and the key.
    """
    found = _load(path, dict)
    for key in ("sources", "scales", "numbers"):
        if key not in found:
            raise ValueError(f"{path}: key {key!r} is missing")
    for number, row in enumerate(found["numbers"]):
        place = f"{path}: number {number}"
        check_row(row, PUBLISHED, place)
        place += f" ({row['task']}, {row['method']})"
        if row["source"] not in found["sources"]:
            known = sorted(found["sources"])
            raise ValueError(f"{place}: source {row['source']!r} is not one of {known}")
        value, normalised = row["value"], row["normalised"]
        if value is None and normalised is None and not row["note"]:
            raise ValueError(f"{place}: no number, and no note that says why")
        if value is not None and normalised is not None:
            if row["task"] not in found["scales"]:
                raise ValueError(f"{place}: a raw and a normalised score need a scale of the task")
            scale = found["scales"][row["task"]]
            there = normalise(value, scale["low"], scale["middle"], scale["high"])
            if abs(there - normalised) > ROUNDING:
                raise ValueError(f"{place}: {value} is {there:.1f} by the scale, not {normalised}")
    return found


def load_beside(path: Path) -> list[dict[str, Any]]:
    """Our row for each task; keys as BESIDE, verdicts as VERDICTS; ValueError as load_published."""
    return _load_rows(path, BESIDE, VERDICTS, "title")


def load_claims(path: Path) -> list[dict[str, Any]]:
    """The paper's claims; keys as CLAIM, verdicts as CLAIM_VERDICTS.

    Raises ValueError as ``load_published``, and for a verdict without evidence: a chapter or a
    page, or "unknown" and what it waits for.
    """
    rows = _load_rows(path, CLAIM, CLAIM_VERDICTS, "claim")
    for row in rows:
        unknown = row["verdict"] == "unknown"
        if not (row["waits_for"] if unknown else row["chapters"] or row["pages"]):
            missing = "what it waits for" if unknown else "a chapter or a page"
            raise ValueError(f"{path}: {row['claim']!r} is {row['verdict']!r} without {missing}")
    return rows


def _load(path: Path, kind: type) -> Any:
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(found, kind):
        raise ValueError(f"{path}: a {kind.__name__} is needed, not a {type(found).__name__}")
    return found


def _load_rows(
    path: Path, kinds: dict[str, Any], verdicts: tuple[str, ...], name: str
) -> list[dict[str, Any]]:
    rows = _load(path, list)
    for number, row in enumerate(rows):
        check_row(row, kinds, f"{path}: row {number}")
        if row["verdict"] not in verdicts:
            wrong = f"verdict {row['verdict']!r} is not one of {verdicts}"
            raise ValueError(f"{path}: {row[name]!r}: {wrong}")
    return rows
