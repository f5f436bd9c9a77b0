"""Runs notebooks: strict parameters, whole outputs, errors that name the cell.

The command line is ``python -m qsft_lite.notebook``. A notebook runs in its own folder, as it does
in JupyterLab, with the kernel of the running interpreter.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import os
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError, strip_color

from qsft_lite import results
from qsft_lite.results import PROFILES, format_cell, project_root, replace_file

NOTEBOOKS = Path("notebooks")
INTERRUPTED = 130  # the exit status that shells give a program stopped by Ctrl-C

# A kernel of this environment, and pictures, whatever the user's own settings are.
_KERNEL_ENVIRONMENT = {
    "JUPYTER_PREFER_ENV_PATH": "1",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
}


class ParameterError(ValueError):
    """A parameter that the notebook does not have, or a value of another type."""


class NotebookError(RuntimeError):
    """A notebook that cannot be read, or one of whose cells failed."""

    partial: nbformat.NotebookNode | None = None
    """The notebook as far as it ran."""
    traceback: str = ""


# One notebook


def run(path: str | Path, parameters: dict[str, Any] | None, output: str | Path) -> Path:
    """See ``qsft_lite.notebook.run``."""
    executed = _execute(Path(path), parameters or {}, {})
    output = Path(output)
    replace_file(output, _notebook_bytes(executed))
    return output


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """The notebook at ``path``, in format 4."""
    try:
        return nbformat.read(path, as_version=4)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, UnicodeDecodeError) as error:
        raise NotebookError(f"{path}: not a notebook ({error})") from error


def default_parameters(notebook: nbformat.NotebookNode) -> dict[str, Any]:
    """Names and values of the cell tagged ``parameters``; empty where there is no such cell.

    Raises:
        ParameterError: more than one such cell, or a line that is not ``NAME = literal``. (A value
            computed there would go stale when another value is injected below it.)
    """
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) > 1:
        raise ParameterError(f"{len(cells)} cells are tagged parameters; one is needed")
    try:
        statements = ast.parse(cells[0].source).body if cells else []
    except SyntaxError as error:
        raise ParameterError(f"parameters cell: {error}") from error
    defaults = {}
    for statement in statements:
        try:
            (target,) = statement.targets
            defaults[target.id] = ast.literal_eval(statement.value)
        except (AttributeError, ValueError) as error:  # another kind of statement, target or value
            text = ast.unparse(statement)
            raise ParameterError(f"parameters cell: {text!r} is not NAME = literal") from error
    return defaults


def check_parameters(parameters: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Raise ParameterError for a name not in ``defaults``, or a value of another type.

    An int may stand for a float, and anything for None.
    """
    for name, value in parameters.items():
        if name not in defaults:
            nearest = difflib.get_close_matches(name, defaults, n=1, cutoff=0)
            hint = f"did you mean {nearest[0]!r}? " if nearest else ""
            raise ParameterError(f"unknown parameter {name!r}: {hint}Known: {list(defaults)}")
        wanted, given = type(defaults[name]), type(value)
        if given is not wanted and wanted is not type(None) and (given, wanted) != (int, float):
            raise ParameterError(
                f"parameter {name!r} is a {wanted.__name__} (default {defaults[name]!r}), "
                f"not a {given.__name__}: {value!r}"
            )


def _execute(
    path: Path,
    parameters: dict[str, Any],
    variables: dict[str, str],
    progress: dict[str, str] | bool = False,
) -> nbformat.NotebookNode:
    """The executed and cleaned notebook; ``variables`` are added to the kernel's environment."""
    path = path.resolve()
    notebook = read_notebook(path)
    try:
        check_parameters(parameters, default_parameters(notebook))
    except ParameterError as error:
        raise ParameterError(f"{path.name}: {error}") from error
    variables = {**_KERNEL_ENVIRONMENT, "QSFT_COMMAND": _command(path, parameters), **variables}
    with tempfile.TemporaryDirectory(prefix="qsft-") as scratch, _environment(variables):
        partial = Path(scratch) / path.name
        try:
            with _termination_as_interrupt():
                executed = papermill.execute_notebook(
                    path,
                    partial,
                    parameters,
                    kernel_name="python3",
                    language="python",
                    progress_bar=progress,
                    cwd=path.parent,
                    extra_arguments=["--log-level=ERROR"],
                    shutdown_kernel="immediate",  # nothing in an idle kernel is worth waiting for
                )
        except Exception as error:
            raise _notebook_error(path, partial, error) from error
        # papermill takes sys.exit() for a success; here every cell has to run.
        ends = [o for cell in executed.cells for o in cell.get("outputs", []) if "ename" in o]
        if ends:
            raise _notebook_error(path, partial, SystemExit(ends[0].evalue))
    _clean(executed)
    return executed


def _command(path: Path, parameters: dict[str, Any]) -> str:
    """The command that runs this notebook with these parameters, without machine-specific paths."""
    root = project_root()
    shown = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
    words = ["python", "-m", "qsft_lite.notebook", "run", shown.as_posix()]
    for name, value in parameters.items():
        text = str(value)
        words += ["-p", name, text if _literal(text) == value else repr(value)]
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
    if partial.exists():
        notebook = nbformat.read(partial, as_version=4)
        cells = [cell for cell in notebook.cells if cell.cell_type == "code" and not _added(cell)]
        started = [i for i, cell in enumerate(cells) if cell.metadata.papermill.start_time]
        if started:  # papermill stops at the cell that fails
            lines = cells[started[-1]].source.strip().splitlines() or [""]
            where = f"code cell {started[-1] + 1} ({lines[0]!r})"
        _clean(notebook)
    failure = NotebookError(f"{path.name}, {where}: {cause}")
    failure.partial, failure.traceback = notebook, traceback
    return failure


def _added(cell: nbformat.NotebookNode) -> bool:
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
    """The notebooks in reading order, without templates."""
    paths = [path for path in sorted(NOTEBOOKS.glob("*.ipynb")) if path.stem[:8] != "template"]
    if not paths:
        raise NotebookError(f"no notebooks in {NOTEBOOKS.resolve()}: run from the project's folder")
    return paths


def run_all(profile: str, output: Path) -> int:
    """Run every notebook at ``profile`` into ``output``; print a table; return the exit status.

    Results go to ``<output>/results``; pictures to ``<output>/figures``, at laptop to ``figures``.
    """
    figures = Path("figures") if profile == "laptop" else output / "figures"
    return _run_each(notebook_paths(), {"PROFILE": profile}, output, figures)


def record(paths: list[Path]) -> int:
    """Execute the notebooks in place, and store results, pictures and the README's tables.

    Each runs as it stands (at laptop), then at smoke for its cost. All of them run aside first: if
    one fails, nothing is changed. Returns the exit status.
    """
    aside = Path("build/record")
    shutil.rmtree(aside, ignore_errors=True)
    laptop, smoke = aside / "laptop", aside / "smoke"
    status = _run_each(paths, {}, laptop, laptop / "figures")
    if not status:
        status = _run_each(paths, {"PROFILE": "smoke"}, smoke, smoke / "figures")
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


def _run_each(paths: list[Path], parameters: dict[str, Any], output: Path, figures: Path) -> int:
    outcomes: list[Outcome] = []
    status = 0
    try:
        for number, path in enumerate(paths, 1):
            progress = f"[{number}/{len(paths)}] {path.stem}"
            outcomes.append(_run_one(path, parameters, output, figures, progress))
            if (error := outcomes[-1].error) is not None:
                print(f"FAILED {error}\n{getattr(error, 'traceback', '')}", file=sys.stderr)
                status = 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        status = INTERRUPTED
    print(summary(outcomes))
    return status


def _run_one(
    path: Path, parameters: dict[str, Any], output: Path, figures: Path, progress: str
) -> Outcome:
    folder = (output / "results").resolve()
    for old in [*folder.glob(f"{path.stem}.*.json"), output / f"{path.stem}.failed.ipynb"]:
        old.unlink(missing_ok=True)
    variables = {"QSFT_RESULTS": str(folder), "QSFT_FIGURES": str(figures.resolve())}
    started, error = time.perf_counter(), None
    try:
        executed = _execute(path, parameters, variables, {"desc": progress})
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
        help="set a parameter; VALUE is a Python literal, or else a string",
    )

    every = commands.add_parser("all", help="run every notebook and print a table")
    every.add_argument("--profile", choices=PROFILES, default="laptop")
    every.add_argument("--output", type=Path, help="folder (default: build/<profile>)")

    again = commands.add_parser("record", help="execute in place; store results and pictures")
    again.add_argument("paths", type=Path, nargs="*", help="notebooks (default: all of them)")

    options = parser.parse_args(arguments)
    try:
        if options.command == "all":
            return run_all(options.profile, options.output or Path("build") / options.profile)
        if options.command == "record":
            return record(options.paths or notebook_paths())
        parameters = {name: _literal(value) for name, value in options.parameters}
        print(run(options.path, parameters, options.output or Path("build") / options.path.name))
        return 0
    except (NotebookError, ParameterError, FileNotFoundError) as error:
        print(f"{error}\n{getattr(error, 'traceback', '')}".rstrip(), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
