"""The command line of studies.

python -m qsft_lite.study wordle --profile laptop --methods ilql q_sft --seeds 0 1
python -m qsft_lite.study wordle --profile gpu --set words=100 layers=4
python -m qsft_lite.study wordle --profile gpu --estimate
python -m qsft_lite.study watch wordle --profile gpu
python -m qsft_lite.study tables data/results/wordle_methods.record.json
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import NoReturn

import datasets
import torch
import transformers

from qsft_lite.results import RESULT_PROFILES
from qsft_lite.study.estimate import as_text, estimate
from qsft_lite.study.progress import watch
from qsft_lite.study.run import TASKS, Study, check_settings, has_study, is_first, run
from qsft_lite.study.tables import retable


class Parser(argparse.ArgumentParser):
    """Says on one line what is wrong, and ends with status 2."""

    def error(self, message: str) -> NoReturn:  # noqa: D102
        self.exit(2, f"{message}\n")


def parser() -> Parser:
    """The options of all commands."""
    found = Parser(
        prog="python -m qsft_lite.study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = found.add_subparsers(dest="command", required=True, metavar="TASK, watch or tables")
    studied = [name for name in TASKS if has_study(name)]
    for name in studied:
        _options(commands.add_parser(name, help=f"run a study of {name}"))
    watching = commands.add_parser("watch", help="say where a study is")
    watching.add_argument("task", choices=studied)
    _options(watching)
    watching.add_argument("--once", action="store_true", help="say it once")
    tables = commands.add_parser("tables", help="compute recorded tables anew from their scores")
    tables.add_argument("files", nargs="+", type=Path, help="data/results/*.record.json")
    return found


def _options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--profile", choices=RESULT_PROFILES, default="laptop")
    command.add_argument("--study", choices=("methods", "ablation"), default="methods")
    command.add_argument("--methods", nargs="*", help="beside cloning; all without it")
    command.add_argument("--seeds", nargs="*", type=int, help="as many as the profile has, if not")
    command.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings")
    command.add_argument("--output", type=Path, help="the folder of all studies: build/runs")
    command.add_argument("--label", help="record the result as TASK_LABEL, whatever the seeds")
    command.add_argument(
        "--fully-shard",
        action="store_true",
        help="divide the networks among the processes of torchrun (FSDP2)",
    )
    command.add_argument("--estimate", action="store_true", help="say what it would cost, and stop")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser().parse_args(arguments)
    if options.command == "tables":
        try:
            for path in options.files:
                retable(path)
        except (OSError, ValueError) as error:
            print(error, file=sys.stderr)
            return 2
        return 0
    try:
        study = Study.of(
            options.task if options.command == "watch" else options.command,
            options.profile,
            methods=options.methods,
            seeds=options.seeds,
            changes=options.set,
            kind=options.study,
            output=options.output,
            label=options.label,
            fully_shard=options.fully_shard,
        )
        if options.command != "watch" and not options.estimate:
            check_settings(study)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if options.command == "watch":
        watch(study.folder, once=options.once)
        return 0
    os.environ.setdefault("QSFT_COMMAND", f"python -m qsft_lite.study {shlex.join(arguments)}")
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if options.estimate or study.profile != "smoke":
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "the CPU"
        cost = estimate(study)  # by all processes, which train together
        if is_first():
            print(as_text(cost, device), flush=True)
    if not options.estimate:
        run(study)
    return 0


if __name__ == "__main__":
    sys.exit(main())
