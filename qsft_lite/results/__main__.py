"""The command line: ``python -m qsft_lite.results [FILES] [--check]``, ``compare``, ``enter``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from qsft_lite.results import leaderboard, load_result, pages, project_root
from qsft_lite.results.compare import compare


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments[:1] == ["compare"]:
            return _compare(arguments[1:])
        if arguments[:1] == ["enter"]:
            return _enter(arguments[1:])
        return _render(arguments)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1


def _render(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m qsft_lite.results",
        description="Render the marked tables of Markdown pages from data/results.",
        epilog="python -m qsft_lite.results compare holds a run against the committed results; "
        "python -m qsft_lite.results enter writes an entry of the leaderboard.",
    )
    help_text = "Markdown pages (default: README.md and those below docs)"
    parser.add_argument("files", type=Path, nargs="*", help=help_text)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if stale")
    parser.add_argument("--root", type=Path, help="the project's folder (default: this package's)")
    options = parser.parse_args(arguments)
    root = (options.root or project_root()).resolve()
    files = [file.resolve() for file in options.files] or pages.marked_pages(root)
    return pages.update(files, root, check=options.check)


def _compare(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m qsft_lite.results compare")
    help_text = "results of a run (default: build/laptop/results)"
    default = Path("build") / "laptop" / "results"
    parser.add_argument("folder", type=Path, nargs="?", default=default, help=help_text)
    return compare(parser.parse_args(arguments).folder)


def _enter(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m qsft_lite.results enter",
        description="Write an entry of the leaderboard from a recorded study, see docs.",
    )
    parser.add_argument("result", type=Path, help="the study's file in data/results")
    tasks = list(leaderboard.TASKS)
    parser.add_argument("--task", required=True, choices=tasks, metavar="TASK", help=f"of {tasks}")
    parser.add_argument("--row", required=True, help="the method's name in the study's table")
    parser.add_argument("--method", help="the name to be shown (default: the row's)")
    help_text = "rows that had to be trained before it, such as the one that it distils"
    parser.add_argument("--after", nargs="*", default=[], metavar="ROW", help=help_text)
    parser.add_argument("--authors", nargs="+", required=True, metavar="NAME")
    options = parser.parse_args(arguments)
    entry = leaderboard.entry_of(
        load_result(options.result),
        task=options.task,
        method=options.method or options.row,
        row=options.row,
        authors=options.authors,
        after=tuple(options.after),
    )
    print(leaderboard.write_entry(entry, project_root()).relative_to(project_root()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
