"""The marked tables of Markdown pages, rendered from ``data/results/*.json``.

A marked table stands between the lines ``<!-- table:NAME -->`` and ``<!-- /table -->``. NAME is
``notebooks`` (the map of the notebooks), ``leaderboard`` (of ``data/leaderboard``), or a name in
the ``tables`` of a result at the profile laptop or record.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qsft_lite.files import replace_file
from qsft_lite.results import leaderboard
from qsft_lite.results.provenance import repository
from qsft_lite.results.record import PROFILES, load_results, name_of
from qsft_lite.results.tables import markdown_table

_TABLE = re.compile(r"^<!-- table:(\S+) -->\n(.*?)^<!-- /table -->$", re.DOTALL | re.MULTILINE)
_MARKER = re.compile(r"^<!-- (?:table:|/table)", re.MULTILINE)


def marked_pages(root: Path) -> list[Path]:
    """README.md and the pages below docs, those that have marked tables."""
    pages = [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    return [page for page in pages if page.exists() and _MARKER.search(page.read_text("utf-8"))]


def update(pages: Iterable[Path], root: Path, *, check: bool = False) -> int:
    """Render the marked tables of pages from ``root/data/results``, and write what has changed.

    With ``check`` nothing is written; what differs is printed. Returns the exit status: 1 where
    something differs then, else 0. Raises OSError or ValueError, naming the page, for one that
    cannot be read or rendered.
    """
    status = 0
    for page in pages:
        old = page.read_text(encoding="utf-8")
        try:
            new = render(old, root, page.parent)
        except ValueError as error:
            raise ValueError(f"{page}: {error}") from error
        if new == old:
            continue
        if not check:
            replace_file(page, new.encode())
            continue
        lines = difflib.unified_diff(old.splitlines(), new.splitlines(), "now", "rendered", n=0)
        print("\n".join(list(lines)[:20]))
        print(f"{page} is not current: run python -m qsft_lite.results {page}")
        status = 1
    return status


def render(text: str, root: Path, folder: Path | None = None) -> str:
    """``text`` with every marked table rendered anew from ``root/data/results``.

    Links count from ``folder``, the page's, by default ``root``. Raises ValueError for an unknown
    table name, or a marker without its partner.
    """
    bodies = [body for _, body in _TABLE.findall(text)]
    if any(map(_MARKER.search, bodies)) or len(_MARKER.findall(text)) != 2 * len(bodies):
        raise ValueError("each <!-- table:NAME --> line needs one <!-- /table --> line after it")
    results = load_results(root / "data" / "results")

    def block(match: re.Match[str]) -> str:
        if match[1] == "notebooks":
            body = _notebook_map(root, folder or root, results)
        elif match[1] == "leaderboard":
            body = leaderboard.table(root)
        else:
            body = _named_table(match[1], results)
        return f"<!-- table:{match[1]} -->\n{body}\n<!-- /table -->"

    return _TABLE.sub(block, text)


def _named_table(name: str, results: list[dict[str, Any]]) -> str:
    shown = [result for result in results if result["profile"] in ("laptop", "record", "gpu")]
    found = [result for result in shown if name in result["tables"]]
    if len(found) != 1:
        known = sorted({table for result in shown for table in result["tables"]})
        count = "no result holds" if not found else f"{len(found)} results hold"
        raise ValueError(
            f"table {name!r}: {count} it; known are 'notebooks', 'leaderboard' and {known}"
        )
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


def _notebook_map(root: Path, folder: Path, results: list[dict[str, Any]]) -> str:
    by_file = {name_of(result): result for result in results}
    rows = []
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        link = Path(os.path.relpath(path, folder)).as_posix()
        row = {"notebook": f"[{_title(path)}]({link})", "open": badge(path.name)}
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
