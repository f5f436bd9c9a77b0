"""Exercises: an answer that the reader writes, its check, and the solution folded below it.

In a notebook an exercise is a code cell with ``answer_1 = ...`` and ``check(answer_1, ...)``, or a
function ``def answer_1(...): return ...``. The Markdown cell after it folds the solution in a
``<details>`` with one block of Python, which `fill_in` puts in place of the dots: so a test run
sees that every solution is right.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable
from typing import Any

import nbformat
import numpy as np

FILLED_IN = "QSFT_SOLUTIONS"  # set where solutions were filled in: then each must be right


def check(
    answer: Any, expected: Any | Callable[[Any], bool], *, hint: str, within: float = 1e-6
) -> None:
    """Print "right", or "not yet" with a hint; the cells after it run in either case.

    Args:
        answer: the reader's; ``...`` (also inside a tuple or list) stands for none.
        expected: the right answer, of numbers, arrays or tuples of them within ``within`` of each
            entry; of texts the very same. Or a function that says whether an answer is right.
        hint: what to think of, without the answer in it.
        within: the largest allowed distance from a number.

    Raises AssertionError for a wrong answer where the environment variable QSFT_SOLUTIONS is set,
    as it is in test runs that fill in the solutions.
    """
    filled_in = bool(os.environ.get(FILLED_IN))
    if not filled_in and _missing(answer):
        print("not yet: write your answer in place of the three dots")
        return
    told = ""
    try:
        right = bool(expected(answer) if callable(expected) else _close(answer, expected, within))
    except Exception as error:  # an answer can be anything
        right, told = False, f" ({type(error).__name__}: {error})"
    if filled_in and not right:
        raise AssertionError(f"the solution {answer!r} is not right{told}")
    print("right" if right else f"not yet{told}. Hint: {hint}")


def _missing(answer: Any) -> bool:
    if isinstance(answer, (tuple, list)):
        return any(_missing(part) for part in answer)
    return answer is ...


def _close(answer: Any, expected: Any, within: float) -> bool:
    if isinstance(expected, (str, bool)) or isinstance(answer, (str, bool)):
        return type(answer) is type(expected) and answer == expected
    answer, expected = np.asarray(answer, dtype=float), np.asarray(expected, dtype=float)
    return answer.shape == expected.shape and bool((abs(answer - expected) <= within).all())


def open_answers(source: str) -> list[ast.stmt]:
    """The statements of a cell that wait for an answer: ``answer... = ...`` and functions of it."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a cell with a magic command
        return []
    found = []
    for node in tree.body:
        dots = [n for n in ast.walk(node) if isinstance(n, ast.Constant) and n.value is ...]
        if dots and any(name.startswith("answer") for name in names_set(node)):
            found.append(node)
    return found


def names_set(node: ast.stmt) -> list[str]:
    """The names that an assignment or a function definition sets; [] for other statements."""
    if isinstance(node, ast.FunctionDef):
        return [node.name]
    if isinstance(node, ast.Assign):
        targets = [n for target in node.targets for n in ast.walk(target)]
        return [n.id for n in targets if isinstance(n, ast.Name)]
    return []


def solution_code(cell: nbformat.NotebookNode | None) -> str | None:
    """The block of Python in a folded solution; None where a cell is not one."""
    if cell is None or cell.cell_type != "markdown" or "<details>" not in cell.source:
        return None
    block = re.search(r"```python\n(.*?)```", cell.source, flags=re.DOTALL)
    return block and block[1].rstrip()


def fill_in(notebook: nbformat.NotebookNode) -> int:
    """Put every solution in the place of its dots, in this very notebook; return how many.

    Raises ValueError for an exercise without a folded solution of its answers in the cell after it.
    """
    count = 0
    for cell, after in zip(notebook.cells, [*notebook.cells[1:], None], strict=True):
        waiting = open_answers(cell.source) if cell.cell_type == "code" else []
        if not waiting:
            continue
        solution = solution_code(after)
        wanted = {name for node in waiting for name in names_set(node)}
        if solution is None or wanted - {n for s in ast.parse(solution).body for n in names_set(s)}:
            raise ValueError(f"no folded solution after the exercise {cell.source[:60]!r}")
        lines = cell.source.splitlines()
        for node in reversed(waiting):
            lines[node.lineno - 1 : node.end_lineno] = []
        cell.source = "\n".join([solution, "", *lines])
        count += 1
    return count
