"""Executes a notebook: strict parameters, whole outputs, errors that name the cell.

The command line is ``python -m qsft_lite.notebook``. A notebook runs in its own folder, as it does
in JupyterLab, with the kernel of the running interpreter.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError, strip_color

from qsft_lite.files import replace_file
from qsft_lite.notebook import exercises
from qsft_lite.notebook.parameters import (
    ParameterError,
    check_parameters,
    default_parameters,
    to_word,
)
from qsft_lite.results import project_root

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


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """The notebook at ``path``, in format 4; FileNotFoundError or NotebookError where none is."""
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
    output: Path,
    variables: dict[str, str],
    *,
    show: bool = False,
    progress: bool = False,
    allow_errors: bool = False,
    solutions: bool = False,
) -> None:
    """Execute a notebook, and write the cleaned copy to ``output``; see ``qsft_lite.notebook.run``.

    Parameters of an earlier run, which an executed copy has in a cell of their own, are left out,
    and that is said.

    Args:
        path, parameters, output: as ``run`` has them; its errors are those raised here.
        variables: added to the kernel's environment.
        show: whether to print what the cells print, as it comes.
        progress: whether to show a progress bar.
        allow_errors: whether to run the cells after one that failed. The error comes at the end.
        solutions: whether to fill in the solutions of the exercises, each of which must be right.
    """
    path = path.resolve()
    notebook, defaults, parameters = read_checked(path, parameters)
    check_place(output)
    if earlier := [cell.source for cell in notebook.cells if added(cell)]:
        told = "\n".join(earlier)
        print(f"{path.name}: left out, from an earlier run:\n{told}", file=sys.stderr)
        notebook.cells = [cell for cell in notebook.cells if not added(cell)]
    if solutions:
        try:
            exercises.fill_in(notebook)
        except ValueError as error:
            raise NotebookError(f"{path.name}: {error}") from error
        variables = {**variables, exercises.FILLED_IN: "1"}
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)  # when it ran, if it did, before now
    variables = {
        **_KERNEL_ENVIRONMENT,
        "QSFT_COMMAND": _command(path, parameters, defaults),
        "QSFT_CALLER_FOLDER": os.getcwd(),
        **variables,
    }
    beside = output.resolve().with_suffix("")
    running, failed = (Path(f"{beside}.{state}.ipynb") for state in ("running", "failed"))
    failed.unlink(missing_ok=True)
    try:
        with _environment(variables), termination_as_interrupt():
            executed = papermill.execute_notebook(
                notebook,
                str(running).replace("{", "{{").replace("}", "}}"),  # papermill formats it
                parameters,
                kernel_name="python3",
                language="python",
                progress_bar=progress,
                cwd=path.parent,
                extra_arguments=["--log-level=ERROR"],
                shutdown_kernel="immediate",  # nothing in an idle kernel is worth waiting for
                allow_errors=allow_errors,
                stdout_file=sys.stdout if show else None,
                stderr_file=sys.stderr if show else None,
            )
        # papermill takes sys.exit() for a success; here every cell has to run.
        if ends := [o for cell in executed.cells for o in cell.get("outputs", []) if "ename" in o]:
            raise SystemExit(ends[0].evalue)
    except (Exception, SystemExit) as error:
        failure = _notebook_error(path, running, error)
        if failure.partial is not None:
            replace_file(failed, notebook_bytes(failure.partial))
            failure.args = (f"{failure}\nThe notebook as far as it ran: {failed}",)
        running.unlink(missing_ok=True)
        raise failure from error
    except KeyboardInterrupt:
        running.unlink(missing_ok=True)
        raise
    _clean(executed)
    try:
        replace_file(output, notebook_bytes(executed))
    except OSError as error:
        told = f"{output} cannot be written any more; the executed copy is {running}"
        raise NotebookError(told) from error
    running.unlink(missing_ok=True)


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
            widget = "application/vnd.jupyter.widget-view+json"
            cell.outputs = [out for out in cell.outputs if widget not in out.get("data", {})]


def notebook_bytes(notebook: nbformat.NotebookNode) -> bytes:
    """The content of its file."""
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
def termination_as_interrupt() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C, so that the kernel is stopped and no temporary file stays."""
    if threading.current_thread() is not threading.main_thread():  # only that one sets handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
