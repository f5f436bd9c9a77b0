"""The command line of recorded games: all of a task's, or one part of them a machine.

python -m qsft_lite.generate wordle --games 1000000 --seed 1 --output data/wordle
python -m qsft_lite.generate wordle --games 1000000 --seed 1 --output data/wordle --shard 3/8
python -m qsft_lite.generate wordle --games 1000000 --seed 1 --output data/wordle --set p=0.5

The shards together are the same files as those of the first line, whoever makes them, in whatever
order, and however often one is killed and called again. ``data.load_trajectories`` reads the
folder.
"""

from __future__ import annotations

import argparse
import ast
import sys
from pathlib import Path
from typing import Any, NoReturn

import datasets

from qsft_lite.data.recording import missing_files
from qsft_lite.envs import TASKS, generate


class Parser(argparse.ArgumentParser):
    """Says on one line what is wrong, and ends with status 2."""

    def error(self, message: str) -> NoReturn:  # noqa: D102
        self.exit(2, f"{message}\n")


def parser() -> Parser:
    """The options."""
    found = Parser(
        prog="python -m qsft_lite.generate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("task", choices=sorted(TASKS))
    found.add_argument("--games", type=int, required=True, help="of all shards together")
    found.add_argument("--seed", type=int, required=True, help="the same one for all shards")
    found.add_argument("--output", type=Path, required=True, help="the folder")
    found.add_argument("--shard", default="1/1", metavar="I/K", help="from 1/K to K/K")
    found.add_argument("--processes", type=int, default=1, help="on this machine")
    found.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="options of the task's generator"
    )
    return found


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = parser().parse_args(arguments)
    datasets.disable_progress_bars()
    try:
        made = generate(
            options.task,
            options.games,
            options.seed,
            processes=options.processes,
            path=options.output,
            shard=_as_shard(options.shard),
            **dict(map(_as_option, options.set)),
        )
        missing = missing_files(options.output)
    except (ValueError, TypeError, OSError) as error:
        print(str(error).splitlines()[0], file=sys.stderr)
        return 2
    still = f"{len(missing)} more files to make" if missing else "all files are there"
    print(f"shard {options.shard}: {len(made):,} games in {options.output}; {still}")
    return 0


def _as_shard(text: str) -> tuple[int, int]:
    first, slash, second = text.partition("/")
    if not (slash and first.isdecimal() and second.isdecimal()):
        raise ValueError(f"{text!r} is no shard: write I/K, such as 3/8")
    return int(first), int(second)


def _as_option(text: str) -> tuple[str, Any]:
    """A name, and the value that Python reads, or the text itself."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is no option: write name=value")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


if __name__ == "__main__":
    sys.exit(main())
