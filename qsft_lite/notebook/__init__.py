"""What a notebook calls: set-up by profile and seed, pictures, and the record of its numbers.

Running notebooks from outside is one line too: ``run``, or ``python -m qsft_lite.notebook --help``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from qsft_lite.results.run import Run, start

__all__ = ["Run", "run", "start", "user_path"]


def run(path: str | Path, parameters: dict[str, Any] | None, output: str | Path) -> Path:
    """Run the notebook at ``path`` with papermill and write the executed copy to ``output``.

    ``parameters`` replace values of the cell tagged ``parameters``; names and types are checked
    before anything runs. The kernel is this interpreter's, in the notebook's own folder. ``output``
    is written only after success, in one step; a failed or interrupted run leaves it untouched.
    While it runs, what its cells print is printed here, and the notebook so far lies beside
    ``output`` as ``<output's name>.running.ipynb``; a failed run leaves it there as
    ``<output's name>.failed.ipynb``. Paths in parameters that the notebook reads with
    ``user_path`` count from the folder of this call.

    Raises:
        ParameterError: an unknown name (the error says the nearest one), a different type, or a
            value that cannot be written into a notebook.
        NotebookError: a cell failed (the error says which), ``path`` is not a notebook, or
            ``output`` cannot be written, which is looked at before anything runs.
    """
    from qsft_lite.notebook import runner

    runner.execute(Path(path), parameters or {}, Path(output), {}, show=True)
    return Path(output)


def user_path(text: str) -> Path:
    """The absolute path that a user means by ``text``; ``~`` is the home folder.

    A relative path counts from the folder in which ``run`` was called, which sets
    QSFT_CALLER_FOLDER; in JupyterLab, from the notebook's own folder.
    """
    return Path(os.environ.get("QSFT_CALLER_FOLDER") or os.getcwd(), os.path.expanduser(text))
