"""The command line: ``python -m qsft_lite.results [FILES] [--check]``, or ``compare``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from qsft_lite.results import pages, project_root
from qsft_lite.results.compare import compare


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments[:1] == ["compare"]:
            return _compare(arguments[1:])
        return _render(arguments)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1


def _render(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m qsft_lite.results",
        description="Render the marked tables of Markdown pages from data/results.",
        epilog="python -m qsft_lite.results compare holds a run against the committed results.",
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


if __name__ == "__main__":
    sys.exit(main())
