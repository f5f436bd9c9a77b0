"""Exercises: what the reader is told, and that solutions are filled in where the dots stand."""

import nbformat
import numpy as np
import pytest

from qsft_lite.notebook import exercises
from qsft_lite.notebook.runner import NotebookError, execute

HINT = "count the doors"


def told(capsys, answer, expected, **options):
    exercises.check(answer, expected, hint=HINT, **options)
    return capsys.readouterr().out


@pytest.mark.parametrize("answer", [..., (1, ...), [[...], 2]])
def test_dots_are_no_answer(capsys, answer):
    assert told(capsys, answer, 1).startswith("not yet: write your answer")


@pytest.mark.parametrize(
    ("answer", "expected", "options"),
    [
        (2, 2, {}),
        (0.5004, 0.5, {"within": 1e-3}),
        ((0.2, 0.35), [0.2, 0.35], {}),
        (np.arange(3), (0, 1, 2), {}),
        ("crane", "crane", {}),
        (True, True, {}),
        (7, lambda answer: answer % 2 == 1, {}),
    ],
)
def test_right(capsys, answer, expected, options):
    assert told(capsys, answer, expected, **options) == "right\n"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (2.1, 2),
        ((0.2, 0.35, 0.1), (0.2, 0.35)),
        (0.2, (0.2, 0.2)),
        ("crane", "slate"),
        (1, True),
        (float("nan"), 1),
        (8, lambda answer: answer % 2 == 1),
    ],
)
def test_wrong_answers_get_the_hint(capsys, answer, expected):
    assert told(capsys, answer, expected) == f"not yet. Hint: {HINT}\n"


def test_an_answer_of_another_kind_is_told_and_stops_nothing(capsys):
    printed = told(capsys, "many", lambda answer: answer > 3)
    assert printed.startswith("not yet (TypeError:") and HINT in printed


@pytest.mark.parametrize("answer", [3, ...])
def test_a_filled_in_solution_must_be_right(monkeypatch, answer):
    monkeypatch.setenv(exercises.FILLED_IN, "1")
    with pytest.raises(AssertionError, match="is not right"):
        exercises.check(answer, 2, hint=HINT)


def an_exercise(solution="answer_1 = half(3)"):
    code = (
        "from qsft_lite.notebook import exercises\n"
        "def half(n):\n    return n / 2\n\n"
        "answer_1 = ...\n\n"
        f"exercises.check(answer_1, 1.5, hint='{HINT}')"
    )
    folded = f"<details><summary>Solution</summary>\n\n```python\n{solution}\n```\n\n</details>"
    return nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell('PROFILE = "laptop"', metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell(code),
            nbformat.v4.new_markdown_cell(folded),
        ]
    )


def test_several_answers_and_functions_are_filled_in():
    notebook = an_exercise("def answer_1(n):\n    return n\n\n\nanswer_2, answer_3 = 1, 2")
    code = (
        "x = 1\n\n\ndef answer_1(n):\n    return ...\n\n\nanswer_2, answer_3 = ..., ...\ny = ...\n"
    )
    notebook.cells[1].source = code
    assert exercises.fill_in(notebook) == 1
    names = {}
    exec(notebook.cells[1].source, names)
    assert (names["answer_1"](5), names["answer_2"], names["answer_3"]) == (5, 1, 2)
    assert names["x"] == 1 and names["y"] is ...


def test_an_exercise_without_a_solution_is_named():
    notebook = an_exercise()
    notebook.cells.pop()
    with pytest.raises(ValueError, match="no folded solution after the exercise"):
        exercises.fill_in(notebook)


@pytest.mark.parametrize(("solutions", "printed"), [(False, "not yet"), (True, "right")])
def test_a_run_with_and_without_solutions(tmp_path, solutions, printed):
    notebook = an_exercise("def half_of_three():\n    return 1.5\n\n\nanswer_1 = half_of_three()")
    path, output = tmp_path / "one.ipynb", tmp_path / "out" / "one.ipynb"
    nbformat.write(notebook, path)
    execute(path, {}, output, {}, solutions=solutions)
    ran = nbformat.read(output, as_version=4)
    assert ran.cells[-2].outputs[0].text.startswith(printed)
    assert ("answer_1 = ..." in ran.cells[-2].source) == (not solutions)


def test_a_run_with_a_wrong_solution_fails(tmp_path):
    path = tmp_path / "one.ipynb"
    nbformat.write(an_exercise("answer_1 = 4"), path)
    with pytest.raises(NotebookError, match="is not right"):
        execute(path, {}, tmp_path / "out.ipynb", {}, solutions=True)
