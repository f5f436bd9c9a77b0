"""Results: one JSON file a run, and every table rendered from these files.

``python -m qsft_lite.results README.md`` rewrites the marked tables of a Markdown file from
``data/results/*.json`` beside it; with ``--check`` it only compares, and exits 1 where they differ.
"""

from __future__ import annotations

import argparse
import difflib
import json
import math
import os
import platform
import re
import subprocess
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

PROFILES = ("smoke", "laptop", "gpu")
"""How big a run is: seconds for tests, minutes on two cores, or paper-size on a GPU."""

RESULT_PROFILES = (*PROFILES, "record")
"""And for experiments, an hour or so on two cores: what the tables of rivals are made with."""

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

ROUNDING = 1e-12  # what is smaller is the rounding of numbers near 1, and shown as 0

_TABLE = re.compile(r"<!-- table:(\S+) -->\n(.*?)<!-- /table -->", re.DOTALL)


# Files


def replace_file(path: Path, content: bytes) -> None:
    """Write ``content`` beside ``path``, then rename: a reader never sees half a file.

    Where ``path`` is a link, the file that it leads to is written.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(content)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_result(directory: Path, result: dict[str, Any]) -> Path:
    """Write one result to ``<directory>/<name>.<profile>.json`` and return that path.

    Numbers keep their full precision. Numpy and torch scalars and arrays become numbers and lists.

    Raises:
        ValueError: a key is missing, or a number is NaN or infinite (JSON has neither).
        TypeError: a value has no place in JSON; the error names its key.
    """
    result = _plain(result, "")
    path = Path(directory) / f"{result.get('name')}.{result.get('profile')}.json"
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
    if path.name != f"{result['name']}.{result['profile']}.json":
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


# Where a number comes from


def provenance() -> dict[str, Any]:
    """Commit, command, platform, library versions and date (UTC) of the running process."""
    commit, dirty = _commit()
    return {
        "commit": commit,
        "dirty": dirty,
        "command": os.environ.get("QSFT_COMMAND", "interactive"),
        "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in ("numpy", "scipy", "torch", "qsft-lite")},
        },
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def project_root() -> Path:
    """The checkout this package is imported from; the working directory where there is none."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "pyproject.toml").exists() else Path.cwd()


def repository() -> str:
    """The project's public address, as pyproject.toml states it."""
    urls = metadata.metadata("qsft-lite").get_all("Project-URL") or []
    return dict(url.split(", ", 1) for url in urls)["Repository"]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"


def _commit() -> tuple[str, bool]:
    """The full commit and whether tracked files differ from it; "unknown" outside git."""
    root = project_root()
    if not (root / ".git").exists():  # the package may be installed inside somebody's repository
        return "unknown", False
    describe = "git --no-optional-locks describe --always --dirty --abbrev=40 --exclude=*".split()
    try:
        answer = subprocess.run(describe, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no git, no commit yet, not our repository
        return "unknown", False
    commit = answer.stdout.strip()
    return commit.removesuffix("-dirty"), commit.endswith("-dirty")


# Tables


def format_cell(value: Any) -> str:
    """One cell: floats to 3 significant digits, ``{"mean", "low", "high"}`` as "m [l, h]".

    The three numbers of an interval have the same decimals, as many as its width deserves; one
    without width is its mean alone.
    """
    if value is None:
        return "-"
    if isinstance(value, dict):
        return _interval(value["mean"], value["low"], value["high"])
    if isinstance(value, float):
        return _three_digits(value)
    return str(value).replace("|", "\\|")


def _interval(mean: float, low: float, high: float) -> str:
    half, largest = (high - low) / 2, max(abs(low), abs(high))
    if half <= ROUNDING:
        return format_cell(mean)
    decimals = max(math.ceil(0.3 - math.log10(half)), 2 if largest < 10 else 0)
    mean, low, high = (
        f"{round(number, decimals) + 0.0:,.{decimals}f}" for number in (mean, low, high)
    )
    return f"{mean} [{low}, {high}]"


def _three_digits(value: float) -> str:
    size = abs(value)
    if size < ROUNDING:
        return "0.00"
    if size >= 1000:
        return f"{value:,.0f}" if size < 1e6 else f"{value:.2e}"
    if size < 1e-3:
        return f"{value:.2e}"
    return f"{value:#.3g}".rstrip(".")


def markdown_table(rows: list[dict[str, Any]]) -> str:
    """A GitHub Markdown table of rows that have the same keys."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "\n".join("| " + " | ".join(map(format_cell, line)) + " |" for line in lines)


def render(text: str, root: Path) -> str:
    """``text`` with every marked table rendered anew from ``root/data/results``.

    A marked table stands between the lines ``<!-- table:NAME -->`` and ``<!-- /table -->``. NAME is
    ``notebooks`` (the map of ``root/notebooks``), or a name in the ``tables`` of a result at the
    profile laptop or record.

    Raises:
        ValueError: an unknown table name, or a marker without its partner.
    """
    blocks = _TABLE.findall(text)
    if any("<!-- table:" in body for _, body in blocks) or not (
        text.count("<!-- table:") == text.count("<!-- /table -->") == len(blocks)
    ):
        raise ValueError("each <!-- table:NAME --> line needs one <!-- /table --> line after it")
    results = load_results(root / "data" / "results")

    def block(match: re.Match[str]) -> str:
        name = match[1]
        body = _notebook_map(root, results) if name == "notebooks" else _named_table(name, results)
        return f"<!-- table:{name} -->\n{body}\n<!-- /table -->"

    return _TABLE.sub(block, text)


def _named_table(name: str, results: list[dict[str, Any]]) -> str:
    shown = [result for result in results if result["profile"] in ("laptop", "record")]
    found = [result for result in shown if name in result["tables"]]
    if len(found) != 1:
        known = sorted({table for result in shown for table in result["tables"]})
        count = "no result holds" if not found else f"{len(found)} results hold"
        raise ValueError(f"table {name!r}: {count} it; known are 'notebooks' and {known}")
    (result,) = found
    commit = result["commit"][:7] + (" with local changes" if result["dirty"] else "")
    source = (
        f"Source: `data/results/{name_of(result)}`, {result['date'][:10]}, commit {commit}, "
        f"`{result['command']}`."
    )
    anew = result.get("recomputed")
    if anew and name == result["name"]:
        source += f" Table recomputed from its scores, {anew['date'][:10]}."
    return f"{markdown_table(result['tables'][name])}\n\n{source}"


def name_of(result: dict[str, Any]) -> str:
    """The file name of a result."""
    return f"{result['name']}.{result['profile']}.json"


def _notebook_map(root: Path, results: list[dict[str, Any]]) -> str:
    by_file = {name_of(result): result for result in results}
    rows = []
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        row = {"notebook": f"[{_title(path)}](notebooks/{path.name})", "open": badge(path.name)}
        for profile in PROFILES:
            row[profile] = _cost(by_file.get(f"{path.stem}.{profile}.json"))
        rows.append(row)
    if not rows:
        raise ValueError(f"{root / 'notebooks'} holds no notebook")
    return markdown_table(rows)


def badge(notebook: str) -> str:
    """The Colab badge of ``notebooks/<notebook>``, in Markdown."""
    path = repository().removeprefix("https://github.com/")
    target = f"https://colab.research.google.com/github/{path}/blob/main/notebooks/{notebook}"
    return f"[![Colab](https://colab.research.google.com/assets/colab-badge.svg)]({target})"


def _title(path: Path) -> str:
    """Number and title: ``02_loss.ipynb`` that begins with "# The loss" gives "02 The loss"."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        heading = re.search(r"^# +(.+)$", "".join(cell["source"]), re.MULTILINE)
        if cell["cell_type"] == "markdown" and heading:
            number = path.stem.split("_")[0]
            return f"{number} {heading[1].removeprefix(number).lstrip(' .:·')}"
    raise ValueError(f"{path}: no Markdown cell has a first-level heading")


def _cost(result: dict[str, Any] | None) -> str:
    """Time and memory of a run, as "45 s, 620 MiB"."""
    if result is None:
        return "-"
    minutes, seconds = divmod(math.ceil(result["seconds"]), 60)
    time = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    return f"{time}, {result['peak_memory_mib']:,.0f} MiB"


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["compare"]:
        from qsft_lite.notebook import golden

        return golden.main(arguments[1:])
    parser = argparse.ArgumentParser(prog="python -m qsft_lite.results", description=__doc__)
    parser.add_argument("file", type=Path, help="Markdown file, such as README.md")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if stale")
    options = parser.parse_args(arguments)
    try:
        old = options.file.read_text(encoding="utf-8")
        new = render(old, options.file.resolve().parent)
    except (OSError, ValueError) as error:
        print(f"{options.file}: {error}", file=sys.stderr)
        return 1
    if not options.check:
        replace_file(options.file, new.encode())
        return 0
    difference = difflib.unified_diff(old.splitlines(), new.splitlines(), "now", "rendered", n=0)
    lines = list(difference)
    if lines:
        print("\n".join(lines[:20]))
        print(f"{options.file} is not current: run python -m qsft_lite.results {options.file}")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
