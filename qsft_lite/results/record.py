"""Results: one JSON file a run, checked when it is written and when it is read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from qsft_lite.files import replace_file

PROFILES = ("smoke", "laptop", "gpu")
"""How big a run is: seconds for tests, minutes on two cores, or paper-size on a GPU."""

RESULT_PROFILES = (*PROFILES, "record")
"""And for studies, an hour or so on two cores: what the tables of rivals are made with."""

# What every result holds, and the type it has in JSON.
KEYS: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "profile": str,
    "settings": dict,
    "seed": int,
    "commit": str,
    "dirty": bool,
    "command": str,
    "device": str,
    "threads": int,
    "platform": str,
    "versions": dict,
    "seconds": (int, float),
    "peak_memory_mib": (int, float),
    "data_hash": (str, type(None)),
    "date": str,
    "headline": dict,
    "tables": dict,
    "raw": (dict, list, type(None)),
}


def write_result(directory: Path, result: dict[str, Any]) -> Path:
    """Write one result to ``<directory>/<name>.<profile>.json`` and return that path.

    Numbers keep their full precision. Numpy and torch scalars and arrays become numbers and lists.

    Raises:
        ValueError: a key is missing, or a number is NaN or infinite (JSON has neither).
        TypeError: a value has no place in JSON; the error names its key.
    """
    result = _plain(result, "")
    path = Path(directory) / name_of(result)
    _validate(result, path)
    replace_file(path, (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())
    return path


def load_results(directory: Path) -> list[dict[str, Any]]:
    """Every result in ``directory``, sorted by file name; see ``load_result``."""
    return [load_result(path) for path in sorted(Path(directory).glob("*.json"))]


def load_result(path: Path) -> dict[str, Any]:
    """The result in one file.

    Raises:
        ValueError: the file is not JSON, lacks a key, or has a wrong type; the error names both.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not readable as JSON ({error}); run it again") from error
    _validate(result, path)
    return result


def _validate(result: Any, path: Path) -> None:
    if not isinstance(result, dict):
        raise ValueError(f"{path}: a result is a JSON object, not a {type(result).__name__}")
    for key, kind in KEYS.items():
        if key not in result:
            raise ValueError(f"{path}: key {key!r} is missing")
        if not isinstance(result[key], kind):
            raise ValueError(f"{path}: key {key!r} has the wrong type: {result[key]!r}")
    if result["profile"] not in RESULT_PROFILES:
        raise ValueError(f"{path}: profile {result['profile']!r} is not one of {RESULT_PROFILES}")
    if path.name != name_of(result):
        raise ValueError(f"{path}: holds {result['name']} at profile {result['profile']}")
    for name, value in result["headline"].items():
        if not isinstance(value, (int, float)) and set(value or ()) != {"mean", "low", "high"}:
            raise ValueError(f"{path}: headline[{name!r}] is not a number or mean, low and high")
    for name, rows in result["tables"].items():
        same = isinstance(rows, list) and all(isinstance(row, dict) for row in rows)
        if not (same and rows and all(list(row) == list(rows[0]) for row in rows)):
            raise ValueError(f"{path}: tables[{name!r}] is not a list of rows with the same keys")


def _plain(value: Any, key: str) -> Any:
    """``value`` in JSON's own types; ``key`` is its place, for the error."""
    if hasattr(value, "tolist"):  # numpy and torch, scalars and arrays
        value = value.tolist()
    if isinstance(value, dict):
        return {str(k): _plain(v, f"{key}.{k}".lstrip(".")) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, f"{key}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key} is {value}: a result holds finite numbers, or None for none")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{key} is a {type(value).__name__}, which a result cannot hold")


def name_of(result: dict[str, Any]) -> str:
    """The file name of a result."""
    return f"{result.get('name')}.{result.get('profile')}.json"
