"""The command line of notebooks: ``python -m qsft_lite.notebook --help``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from qsft_lite.notebook import run, runner, several
from qsft_lite.notebook.check import check
from qsft_lite.notebook.parameters import ParameterError, from_word
from qsft_lite.notebook.runner import NotebookError
from qsft_lite.results import PROFILES


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m qsft_lite.notebook")
    commands = parser.add_subparsers(dest="command", required=True)

    one = commands.add_parser("run", help="run one notebook")
    one.add_argument("path", type=Path)
    one.add_argument("--output", type=Path, help="the executed copy (default: build/<its name>)")
    one.add_argument(
        "-p",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="set a parameter; VALUE is a Python literal, or else a string; paths in it count "
        "from the current folder",
    )

    every = commands.add_parser("all", help="run every notebook and print a table")
    every.add_argument("--profile", choices=PROFILES, default="laptop")
    every.add_argument("--output", type=Path, help="folder (default: build/<profile>)")
    every.add_argument(
        "--jobs", type=_positive, default=1, help="how many to run side by side (default: 1)"
    )
    every.add_argument(
        "--solutions", action="store_true", help="fill in the exercises; each must be right"
    )

    again = commands.add_parser("record", help="execute in place; store results and pictures")
    again.add_argument("paths", type=Path, nargs="*", help="notebooks (default: all of them)")

    spread = commands.add_parser(
        "check", help="run with fresh seeds, every cell; print what fails and how numbers spread"
    )
    spread.add_argument("paths", type=Path, nargs="+", metavar="NOTEBOOK")
    spread.add_argument("--seeds", type=_positive, default=5, help="how many (default: 5)")
    spread.add_argument("--first-seed", type=int, default=100, help="the others follow it")
    spread.add_argument(
        "--threads", type=_positive, nargs="+", default=[], help="run each seed with all of these"
    )
    spread.add_argument("--profile", choices=PROFILES, default="laptop")
    spread.add_argument("--output", type=Path, default=Path("build") / "check")
    spread.add_argument("--write", action="store_true", help="maintainers: store in data/spread")

    try:
        # argparse would take a value such as -1e-3 for an option.
        words, rest = _parameter_words(arguments) if arguments[:1] == ["run"] else ([], arguments)
        options = parser.parse_args(rest)
        if options.command == "all":
            output = options.output or Path("build") / options.profile
            parameters = {"PROFILE": options.profile}
            return several.execute_each(
                several.notebook_paths(),
                parameters,
                output,
                options.jobs,
                solutions=options.solutions,
            )
        if options.command == "record":
            return several.execute_in_place(options.paths or several.notebook_paths())
        if options.command == "check":
            return check(
                options.paths,
                seeds=range(options.first_seed, options.first_seed + options.seeds),
                profile=options.profile,
                output=options.output,
                write=options.write,
                threads=options.threads,
            )
        _, defaults, _ = runner.read_checked(options.path, {})
        words = dict([*options.parameters, *words])
        parameters = {name: from_word(word, defaults.get(name)) for name, word in words.items()}
        output = options.output or Path("build") / options.path.name
        print(run(options.path, parameters, output))
        return 0
    except (NotebookError, ParameterError, FileNotFoundError) as error:
        print(f"{error}\n{getattr(error, 'traceback', '')}".rstrip(), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return several.INTERRUPTED


def _parameter_words(arguments: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """The NAME and VALUE after each -p, whatever they look like; and all other arguments."""
    pairs, rest, words = [], [], iter(arguments)
    for word in words:
        if word != "-p":
            rest.append(word)
            continue
        pair = (next(words, None), next(words, None))
        if None in pair:
            raise ParameterError("-p needs a NAME and a VALUE after it")
        pairs.append(pair)
    return pairs, rest


def _positive(word: str) -> int:
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


if __name__ == "__main__":
    sys.exit(main())
