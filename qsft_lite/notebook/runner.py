"""Runs notebooks: strict parameters, whole outputs, errors that name the cell.

The command line is ``python -m qsft_lite.notebook``. A notebook runs in its own folder, as it does
in JupyterLab, with the kernel of the running interpreter.
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.connection
import os
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError, strip_color

from qsft_lite import results
from qsft_lite.notebook import available_memory_mib, usable_cpus
from qsft_lite.notebook.parameters import (
    ParameterError,
    check_parameters,
    default_parameters,
    from_word,
    to_word,
)
from qsft_lite.results import PROFILES, format_cell, project_root, replace_file

NOTEBOOKS = Path("notebooks")
INTERRUPTED = 130  # the exit status that shells give a program stopped by Ctrl-C

# A kernel of this environment, and pictures, whatever the user's own settings are.
_KERNEL_ENVIRONMENT = {
    "JUPYTER_PREFER_ENV_PATH": "1",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
}


class NotebookError(RuntimeError):
    """A notebook that cannot be read, or one of whose cells failed."""

    partial: nbformat.NotebookNode | None = None
    """The notebook as far as it ran."""
    traceback: str = ""


# One notebook


def run(path: str | Path, parameters: dict[str, Any] | None, output: str | Path) -> Path:
    """See ``qsft_lite.notebook.run``."""
    path, output = Path(path), Path(output)
    read_checked(path, parameters or {})
    check_place(output)
    failed = output.with_name(f"{output.stem}.failed.ipynb")
    failed.unlink(missing_ok=True)
    try:
        executed = execute(path, parameters or {}, {})
    except NotebookError as failure:
        if failure.partial is not None:
            kept = _keep(failed, failure.partial)
            failure.args = (f"{failure}\nThe notebook as far as it ran: {kept}",)
        raise
    kept = _keep(output, executed)
    if kept != output:
        raise NotebookError(f"{output} cannot be written any more; the executed copy is {kept}")
    return output


def check_place(output: Path) -> None:
    """Raise NotebookError where no file can be written at ``output``; make its folder."""
    if output.is_dir():
        raise NotebookError(f"{output} is a folder: name a file in it")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        place = output.parent.resolve()
        raise NotebookError(f"no file can be written in {place} ({error}): name another") from error


def _keep(path: Path, notebook: nbformat.NotebookNode) -> Path:
    """Write the notebook; where that fails after all, into a temporary folder. Returns where."""
    try:
        replace_file(path, _notebook_bytes(notebook))
        return path
    except OSError:
        aside = Path(tempfile.mkdtemp(prefix="kept-")) / path.name
        aside.write_bytes(_notebook_bytes(notebook))
        return aside


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """The notebook at ``path``, in format 4.

    Raises:
        FileNotFoundError: there is none.
        NotebookError: it is something else.
    """
    try:
        return nbformat.reads(path.read_text(encoding="utf-8-sig"), as_version=4)
    except FileNotFoundError:
        raise
    except Exception as error:  # nbformat has many words for what is no notebook
        raise NotebookError(f"{path}: not a notebook ({error})") from error


def read_checked(
    path: Path, parameters: dict[str, Any]
) -> tuple[nbformat.NotebookNode, dict[str, Any], dict[str, Any]]:
    """The notebook, its default parameters, and the given ones as they can be written."""
    notebook = read_notebook(path)
    try:
        defaults = default_parameters(notebook)
        return notebook, defaults, check_parameters(parameters, defaults)
    except ParameterError as error:
        raise ParameterError(f"{path.name}: {error}") from error


def execute(
    path: Path,
    parameters: dict[str, Any],
    variables: dict[str, str],
    progress: dict[str, str] | bool = False,
    *,
    allow_errors: bool = False,
) -> nbformat.NotebookNode:
    """The executed and cleaned notebook.

    Parameters of an earlier run, which an executed copy has in a cell of their own, are left out,
    and that is said.

    Args:
        path: the notebook; it runs in its folder.
        parameters: see ``check_parameters``.
        variables: added to the kernel's environment.
        progress: a progress bar, or its settings.
        allow_errors: whether to run the cells after one that failed. The error comes at the end.

    Raises:
        ParameterError, FileNotFoundError, NotebookError: as ``qsft_lite.notebook.run``.
    """
    path = path.resolve()
    notebook, defaults, parameters = read_checked(path, parameters)
    if earlier := [cell.source for cell in notebook.cells if added(cell)]:
        told = "\n".join(earlier)
        print(f"{path.name}: left out, from an earlier run:\n{told}", file=sys.stderr)
        notebook.cells = [cell for cell in notebook.cells if not added(cell)]
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)  # when it ran, if it did, before now
    variables = {
        **_KERNEL_ENVIRONMENT,
        "QSFT_COMMAND": _command(path, parameters, defaults),
        "QSFT_CALLER_FOLDER": os.getcwd(),
        **variables,
    }
    with tempfile.TemporaryDirectory(prefix="qsft-") as scratch, _environment(variables):
        prepared, partial = Path(scratch) / "prepared.ipynb", Path(scratch) / "partial.ipynb"
        prepared.write_bytes(_notebook_bytes(notebook))
        try:
            with _termination_as_interrupt():
                executed = papermill.execute_notebook(
                    prepared,
                    partial,
                    parameters,
                    kernel_name="python3",
                    language="python",
                    progress_bar=progress,
                    cwd=path.parent,
                    extra_arguments=["--log-level=ERROR"],
                    shutdown_kernel="immediate",  # nothing in an idle kernel is worth waiting for
                    allow_errors=allow_errors,
                )
        except Exception as error:
            raise _notebook_error(path, partial, error) from error
        # papermill takes sys.exit() for a success; here every cell has to run.
        ends = [o for cell in executed.cells for o in cell.get("outputs", []) if "ename" in o]
        if ends:
            raise _notebook_error(path, partial, SystemExit(ends[0].evalue))
    _clean(executed)
    return executed


def _command(path: Path, parameters: dict[str, Any], defaults: dict[str, Any]) -> str:
    """The command that runs this notebook with these parameters, without machine-specific paths."""
    root = project_root()
    shown = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
    words = ["python", "-m", "qsft_lite.notebook", "run", shown.as_posix()]
    for name, value in parameters.items():
        words += ["-p", name, to_word(value, defaults[name])]
    return shlex.join(words)


def _notebook_error(path: Path, partial: Path, error: BaseException) -> NotebookError:
    """An error that names the notebook, the cell, its first line and the cause."""
    if isinstance(error, PapermillExecutionError):
        cause = f"{error.ename}: {error.evalue}"
        traceback = strip_color("\n".join(error.traceback))
    elif isinstance(error, DeadKernelError):
        cause, traceback = "the kernel died (out of memory, most often)", ""
    else:
        cause, traceback = f"{type(error).__name__}: {error}", ""

    where = "before its first cell"
    notebook = None
    with suppress(OSError, NotebookError):  # none, or cut off: the cause above still counts
        notebook = read_notebook(partial)
    if notebook is not None:
        cells = [cell for cell in notebook.cells if cell.cell_type == "code" and not added(cell)]
        times = [cell.metadata.get("papermill", {}).get("start_time") for cell in cells]
        started = [i for i, at in enumerate(times) if at]
        if started:  # papermill stops at the cell that fails
            lines = cells[started[-1]].source.strip().splitlines() or [""]
            where = f"code cell {started[-1] + 1} ({lines[0]!r})"
        _clean(notebook)
    failure = NotebookError(f"{path.name}, {where}: {cause}")
    failure.partial, failure.traceback = notebook, traceback
    return failure


def added(cell: nbformat.NotebookNode) -> bool:
    """Whether papermill added the cell that sets the parameters."""
    return "injected-parameters" in cell.metadata.get("tags", [])


def _clean(notebook: nbformat.NotebookNode) -> None:
    """Remove what differs from run to run, and widgets, which are dead without a kernel.

    GitHub refuses to show a notebook whose widget metadata lacks its state.
    """
    notebook.metadata.pop("papermill", None)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_widget(output)]


def _is_widget(output: nbformat.NotebookNode) -> bool:
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def _notebook_bytes(notebook: nbformat.NotebookNode) -> bytes:
    return (nbformat.writes(notebook) + "\n").encode()


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables (the kernel inherits them), and restore them after."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C, so that the kernel is stopped and no temporary file stays."""
    if threading.current_thread() is not threading.main_thread():  # only that one sets handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# All notebooks


@dataclass
class Outcome:
    """How one notebook of several went."""

    name: str
    seconds: float
    error: Exception | None
    result: dict[str, Any] | None
    """What it recorded."""


def notebook_paths() -> list[Path]:
    """The notebooks in reading order: chapters, then templates."""
    paths = sorted(NOTEBOOKS.glob("*.ipynb"))
    if not paths:
        raise NotebookError(f"no notebooks in {NOTEBOOKS.resolve()}: run from the project's folder")
    return paths


def run_all(profile: str, output: Path, jobs: int = 1) -> int:
    """Run every notebook at ``profile`` into ``output``; print a table; return the exit status.

    Results go to ``<output>/results`` and pictures to ``<output>/figures``: nothing that is
    committed changes.
    """
    return _run_each(notebook_paths(), {"PROFILE": profile}, output, jobs)


def record(paths: list[Path]) -> int:
    """Execute the notebooks in place, and store results, pictures and the README's tables.

    Each runs as it stands (at laptop), then at smoke for its cost. All of them run aside first: if
    one fails, nothing is changed. Returns the exit status.
    """
    aside = Path("build/record")
    shutil.rmtree(aside, ignore_errors=True)
    laptop, smoke = aside / "laptop", aside / "smoke"
    status = _run_each(paths, {}, laptop)
    if not status:
        status = _run_each(paths, {"PROFILE": "smoke"}, smoke)
    if status:
        print("Nothing was recorded.", file=sys.stderr)
        return status
    for path in paths:
        replace_file(path, (laptop / path.name).read_bytes())
    for picture in laptop.glob("figures/*.png"):
        replace_file(Path("figures") / picture.name, picture.read_bytes())
    for result in aside.glob("*/results/*.json"):
        replace_file(Path("data/results") / result.name, result.read_bytes())
    return results.main(["README.md"]) if Path("README.md").exists() else 0


def _run_each(paths: list[Path], parameters: dict[str, Any], output: Path, jobs: int = 1) -> int:
    outcomes: list[Outcome] = []
    status = 0
    check_place(output / "a_notebook.ipynb")
    run_them = _one_by_one if jobs == 1 else _side_by_side
    try:
        for outcome in run_them(paths, parameters, output, jobs):
            outcomes.append(outcome)
            if (error := outcome.error) is not None:
                print(f"FAILED {error}\n{getattr(error, 'traceback', '')}", file=sys.stderr)
                status = 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        status = INTERRUPTED
    print(summary(sorted(outcomes, key=lambda outcome: outcome.name)))
    return status


def _one_by_one(
    paths: list[Path], parameters: dict[str, Any], output: Path, jobs: int
) -> Iterator[Outcome]:
    for number, path in enumerate(paths, 1):
        progress = {"desc": f"[{number}/{len(paths)}] {path.stem}"}
        yield _run_one(path, parameters, output, {}, progress)


def _side_by_side(
    paths: list[Path], parameters: dict[str, Any], output: Path, jobs: int
) -> Iterator[Outcome]:
    """Up to ``jobs`` notebooks at a time, each in a process of its own, the longest first.

    Times, memory and threads are those recorded, as far as there are any. A notebook starts when
    its memory fits beside that of those that run; one always runs.
    """
    known = {path: _recorded(path, parameters.get("PROFILE", "laptop")) for path in paths}
    waiting = sorted(paths, key=lambda path: -known[path].get("seconds", float("inf")))
    memory = {path: known[path].get("peak_memory_mib", 1000) for path in paths}
    share = max(usable_cpus() // jobs, 1)
    room = available_memory_mib()
    running: dict[Any, tuple[multiprocessing.Process, Path]] = {}
    context = multiprocessing.get_context("spawn")  # a fresh interpreter, as on every system
    done = 0
    try:
        with _termination_as_interrupt():
            while waiting or running:
                used = sum(memory[path] for _, path in running.values())
                fits = [path for path in waiting if not running or used + memory[path] <= room]
                if fits and len(running) < jobs:
                    path = fits[0]
                    waiting.remove(path)
                    threads = str(min(known[path].get("threads", 1), share))
                    variables = {"QSFT_THREADS": os.environ.get("QSFT_THREADS", threads)}
                    ours, theirs = context.Pipe(duplex=False)
                    child = context.Process(
                        target=_run_apart, args=(theirs, path, parameters, output, variables)
                    )
                    child.start()
                    theirs.close()
                    running[ours] = child, path
                    print(f"started {path.stem}", file=sys.stderr)
                    continue
                for ready in multiprocessing.connection.wait(list(running)):
                    child, path = running[ready]
                    outcome = _received(ready, path)
                    child.join()
                    del running[ready]
                    done += 1
                    seconds = f"{outcome.seconds:.0f} s"
                    print(f"[{done}/{len(paths)}] {path.stem}: {seconds}", file=sys.stderr)
                    yield outcome
    finally:
        for child, _ in running.values():
            child.terminate()  # it stops its kernel
        for child, _ in running.values():
            child.join()


def _recorded(path: Path, profile: str) -> dict[str, Any]:
    """The committed result of a notebook; {} where there is none."""
    try:
        return results.load_result(
            project_root() / "data" / "results" / f"{path.stem}.{profile}.json"
        )
    except FileNotFoundError:
        return {}


def _run_apart(
    answer: Any, path: Path, parameters: dict[str, Any], output: Path, variables: dict[str, str]
) -> None:
    """What a process of ``_side_by_side`` does: run one notebook, and send its outcome."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # Ctrl-C is for the first process, which ends the others
    with suppress(KeyboardInterrupt):
        answer.send(_run_one(path, parameters, output, variables, False))


def _received(connection: Any, path: Path) -> Outcome:
    try:
        return connection.recv()
    except EOFError:
        error = NotebookError(f"{path.name}: its process ended early (out of memory, most often)")
        return Outcome(path.stem, 0.0, error, None)


def _run_one(
    path: Path,
    parameters: dict[str, Any],
    output: Path,
    variables: dict[str, str],
    progress: dict[str, str] | bool,
) -> Outcome:
    folder = (output / "results").resolve()
    for old in [*folder.glob(f"{path.stem}.*.json"), output / f"{path.stem}.failed.ipynb"]:
        old.unlink(missing_ok=True)
    places = {"QSFT_RESULTS": str(folder), "QSFT_FIGURES": str((output / "figures").resolve())}
    started, error = time.perf_counter(), None
    try:
        executed = execute(path, parameters, {**places, **variables}, progress)
        replace_file(output / path.name, _notebook_bytes(executed))
    except (NotebookError, ParameterError) as failure:
        error = failure
        if (partial := getattr(failure, "partial", None)) is not None:
            replace_file(output / f"{path.stem}.failed.ipynb", _notebook_bytes(partial))
    seconds = time.perf_counter() - started
    recorded = [] if error else list(folder.glob(f"{path.stem}.*.json"))
    result = results.load_result(recorded[0]) if recorded else None
    return Outcome(path.stem, seconds, error, result)


def summary(outcomes: list[Outcome]) -> str:
    """A table: notebook, seconds, peak memory, headline numbers or the failing cell."""
    width = max([len(outcome.name) for outcome in outcomes], default=8)
    lines = [f"\n{'notebook':<{width}}  seconds  peak MiB  headline numbers"]
    for outcome in outcomes:
        memory, told = "-", "-"
        if outcome.error is not None:
            told = f"FAILED {outcome.error}".splitlines()[0]
        elif outcome.result is not None:
            memory = f"{outcome.result['peak_memory_mib']:.0f}"
            numbers = outcome.result["headline"].items()
            told = "; ".join(f"{name}: {format_cell(value)}" for name, value in numbers)
        lines.append(f"{outcome.name:<{width}}  {outcome.seconds:7.1f}  {memory:>8}  {told}")
    return "\n".join(lines)


# The command line


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

    again = commands.add_parser("record", help="execute in place; store results and pictures")
    again.add_argument("paths", type=Path, nargs="*", help="notebooks (default: all of them)")

    spread = commands.add_parser(
        "check", help="run with fresh seeds, every cell; print what fails and how numbers spread"
    )
    spread.add_argument("paths", type=Path, nargs="+", metavar="NOTEBOOK")
    spread.add_argument("--seeds", type=_positive, default=5, help="how many (default: 5)")
    spread.add_argument("--first-seed", type=int, default=100, help="the others follow it")
    spread.add_argument(
        "--threads", type=_positive, nargs="+", default=[], help="to run with, each in turn"
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
            return run_all(options.profile, output, options.jobs)
        if options.command == "record":
            return record(options.paths or notebook_paths())
        if options.command == "check":
            from qsft_lite.notebook import golden

            return golden.check(
                options.paths,
                seeds=range(options.first_seed, options.first_seed + options.seeds),
                threads=options.threads,
                profile=options.profile,
                output=options.output,
                write=options.write,
            )
        _, defaults, _ = read_checked(options.path, {})
        words = dict([*options.parameters, *words])
        parameters = {name: from_word(word, defaults.get(name)) for name, word in words.items()}
        print(run(options.path, parameters, options.output or Path("build") / options.path.name))
        return 0
    except (NotebookError, ParameterError, FileNotFoundError) as error:
        print(f"{error}\n{getattr(error, 'traceback', '')}".rstrip(), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED


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
