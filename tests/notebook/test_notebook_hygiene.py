"""Every committed notebook was run in order, shows pictures, and carries nothing of a machine.

Each check is a function of one notebook, applied to all of them; the second half of this file
breaks a sound notebook in one place at a time and sees that check fail.
"""

import ast
import copy
import re

import nbformat
import pytest
from install_cell import INSTALL_CELL
from places import ROOT

from qsft_lite.notebook import exercises
from qsft_lite.notebook.parameters import default_parameters
from qsft_lite.results import PROFILES, badge, repository

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def outputs(notebook):
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def has_picture(cell):
    return any("image/png" in output.get("data", {}) for output in cell.outputs)


def tags(cell):
    return cell.metadata.get("tags", [])


def calls(notebook):
    """Every function call in the notebook, as a pair of its cell and its syntax tree."""
    return [
        (cell, node)
        for cell in code_cells(notebook)
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Call)
    ]


def check_executed_in_order(notebook, name):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1)), f"execution counts {counts}"


def check_no_error(notebook, name):
    assert all(output.output_type != "error" for output in outputs(notebook))


def check_no_stderr(notebook, name):
    texts = [output.text for output in outputs(notebook) if output.get("name") == "stderr"]
    assert texts == []


def check_no_widget_state(notebook, name):
    assert "widgets" not in notebook.metadata
    assert all(WIDGET_VIEW not in output.get("data", {}) for output in outputs(notebook))


def check_parameters(notebook, name):
    assert sum("parameters" in tags(cell) for cell in notebook.cells) == 1
    assert not any("injected-parameters" in tags(cell) for cell in notebook.cells)
    assert default_parameters(notebook).get("PROFILE") == "laptop"


def check_picture(notebook, name):
    assert any(has_picture(cell) for cell in code_cells(notebook))


def check_first_cell(notebook, name):
    text = notebook.cells[0].source
    assert notebook.cells[0].cell_type == "markdown"
    assert badge(name) in text, f"the first cell needs {badge(name)}"
    missing = [profile for profile in PROFILES if profile not in text]
    assert missing == [], f"the first cell says nothing about the profiles {missing}"
    # A GPU's figures may be unknown; those of smoke and laptop are measured.
    assert len(re.findall(r"\d ?(?:s|min|h)\b", text)) >= 2, "time of smoke and laptop"
    assert len(re.findall(r"\d ?(?:MiB|GiB|MB|GB)\b", text)) >= 2, "memory of smoke and laptop"


def check_install_cell(notebook, name):
    assert code_cells(notebook)[0].source == INSTALL_CELL


def check_short_lines(notebook, name):
    for cell in code_cells(notebook):
        assert [line for line in cell.source.splitlines() if len(line) > 100] == []


def check_short_cells(notebook, name):
    for cell in code_cells(notebook):
        lines = cell.source.splitlines()
        assert len(lines) <= 40, f"{len(lines)} lines: {lines[0]}"


def check_folded(notebook, name):
    """Plumbing is folded away: set-up, pictures' code, and the record; ideas stand open."""
    for cell in code_cells(notebook):
        first = cell.source.splitlines()[0]
        plumbing = first.startswith(("import ", "from ")) or re.search(
            r"notebook\.start\(|run\.record\(|plt\.subplots\(|plots\.show\(", cell.source
        )
        folded = cell.metadata.get("jupyter", {}).get("source_hidden", False)
        assert folded or not plumbing, f"not folded: {first}"


def check_alternative_texts(notebook, name):
    """Every picture has a text that says what it shows."""
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                alt = output.get("metadata", {}).get("image/png", {}).get("alt", "")
                assert len(alt) >= 60, f"no text for the picture of {cell.source[:60]!r}: {alt!r}"


def check_exercises(notebook, name):
    """At least two exercises start empty, each with its solution folded in the cell below."""
    exercises_of = [cell for cell in code_cells(notebook) if "exercises.check(" in cell.source]
    assert len(exercises_of) >= 2, f"{len(exercises_of)} exercises"
    for cell in exercises_of:
        assert exercises.open_answers(cell.source), f"already solved: {cell.source[:60]!r}"
        printed = "".join(o.text for o in cell.outputs if o.output_type == "stream")
        assert printed.startswith("not yet"), f"{cell.source[:60]!r} printed {printed!r}"
    solved = copy.deepcopy(notebook)
    assert exercises.fill_in(solved) == len(exercises_of)
    for cell in code_cells(solved):
        assert not exercises.open_answers(cell.source), f"its solution has no {cell.source[:60]!r}"


def check_predictions(notebook, name):
    """The reader is asked, at least twice, to write down what will come before it is shown."""
    asked = [c for c in notebook.cells if c.cell_type == "markdown" and "**Predict" in c.source]
    assert len(asked) >= 2, f"{len(asked)} cells with **Predict ...**"


def check_glossary_linked(notebook, name):
    first = notebook.cells[0].source
    assert "(../docs/notation.md)" in first, "the first cell needs a link to ../docs/notation.md"


def check_no_machine_path(notebook, name):
    texts = [cell.source for cell in notebook.cells]
    for output in outputs(notebook):
        data = output.get("data", {})
        texts += [output.get("text", "")]
        texts += [str(value) for mime, value in data.items() if mime != "image/png"]
    for text in texts:
        found = re.search(r"(/work/|/home/|/root/|/Users/|/tmp/|C:\\).*", text)
        assert not found, f"machine-specific path {found[0]!r}"


def check_widgets(notebook, name):
    """A cell that shows a widget draws the same at rest, and its output is not compared."""
    trees = [ast.parse(cell.source) for cell in code_cells(notebook)]
    imports = [n for t in trees for n in ast.walk(t) if isinstance(n, ast.ImportFrom)]
    whole = {a.asname or a.name: f"{n.module}.{a.name}" for n in imports for a in n.names}
    for cell, call in calls(notebook):
        function = ast.unparse(call.func)
        name, *rest = function.split(".")
        # Of all modules: an explorer of this package is named as one, see the test below.
        if re.match(r"ipywidgets\.|.*explorer$", ".".join([whole.get(name, name), *rest])):
            assert "nbval-ignore-output" in tags(cell), f"{function}: not tagged"
            assert has_picture(cell), f"{function}: no static figure"


def check_recorded_under_its_name(notebook, name):
    names = [c.args[0] for _, c in calls(notebook) if ast.unparse(c.func) == "notebook.start"]
    assert [ast.literal_eval(n) for n in names] == [name.removesuffix(".ipynb")]


def check_record_last(notebook, name):
    last = ast.parse(code_cells(notebook)[-1].source).body[-1]
    assert ast.unparse(last).startswith("run.record("), "the last code cell ends with run.record"


CHECKS = [value for key, value in list(globals().items()) if key.startswith("check_")]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path, check):
    check(nbformat.read(path, as_version=4), path.name)


def test_what_shows_an_explorer_is_named_as_one():
    """Every function of the package that shows controls; else check_widgets would not know it."""
    named, showing = set(), {"show_explorer", "step_through", "display"}
    for path in [*(ROOT / "qsft_lite").rglob("widgets.py"), ROOT / "qsft_lite/viz/explorers.py"]:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            called = [ast.unparse(n.func) for n in ast.walk(node) if isinstance(n, ast.Call)]
            if isinstance(node, ast.FunctionDef) and showing & set(called):
                named.add(node.name)
    assert len(named) >= 7
    assert [name for name in named if not name.endswith("explorer")] == ["step_through"]


def test_the_install_cell_installs_this_project():
    assert f'"git+{repository()}"' in INSTALL_CELL


def two_exercises():
    """Of an assignment and of a function, each with its folded solution. Cells 6 to 9."""
    not_yet = stream("stdout", "not yet: write your answer in place of the three dots\n")
    cells = []
    for dots, answer, solved in (
        ("answer_1 = ...", "answer_1", "answer_1 = 1 + 1"),
        ("def answer_2(n):\n    return ...", "answer_2(1)", "def answer_2(n):\n    return 2 * n"),
    ):
        source = f'{dots}\n\nexercises.check({answer}, 2, hint="count")'
        solution = f"<details><summary>Solution</summary>\n\n```python\n{solved}\n```\n</details>"
        cells += [
            nbformat.v4.new_code_cell(source, outputs=[not_yet]),
            nbformat.v4.new_markdown_cell(solution),
        ]
    return cells


def sound_notebook():
    """A notebook, as if executed, that passes every check. Cells: 2 parameters, 4 widget."""
    new_code, new_output = nbformat.v4.new_code_cell, nbformat.v4.new_output
    alt = "Two lines over ten steps. The blue one rises to 1 and stays there."
    picture = new_output(
        "display_data",
        {"image/png": "abc", "text/plain": "<Figure>"},
        metadata={"image/png": {"alt": alt}},
    )
    table = new_output("execute_result", {"text/plain": "a table"}, execution_count=3)
    shown = {"tags": ["nbval-ignore-output"]}
    folded = {"jupyter": {"source_hidden": True}}
    first = (
        f"{badge('01_x.ipynb')}\n- smoke: 5 s, 300 MiB\n- laptop: 1 min, 1 GiB\n- gpu: not measured"
    )
    cells = [
        nbformat.v4.new_markdown_cell(first + "\n[Notation](../docs/notation.md)"),
        new_code(INSTALL_CELL, metadata=folded),
        new_code('PROFILE = "laptop"\nSEED = 0', metadata={"tags": ["parameters"]}),
        new_code(
            'from qsft_lite.viz.explorers import explorer\nrun = notebook.start("01_x")',
            metadata=folded,
        ),
        new_code("draw()\nexplorer(1)", outputs=[picture], metadata=shown),
        new_code("table()", outputs=[table]),
        *two_exercises(),
        *[nbformat.v4.new_markdown_cell("**Predict:** more, or less?") for _ in range(2)],
        new_code("run.record(headline={})", metadata=folded),
    ]
    for count, cell in enumerate([c for c in cells if c.cell_type == "code"], 1):
        cell.execution_count = count
    return nbformat.v4.new_notebook(cells=cells)


def stream(name, text):
    return nbformat.v4.new_output("stream", name=name, text=text)


def in_cell(index, **changes):
    """A function that changes one cell of a notebook."""
    return lambda notebook: notebook.cells[index].update(changes)


def in_first_cell(old, new):
    source = sound_notebook().cells[0].source
    return in_cell(0, source=source.replace(old, new))


def retag(index, *new_tags):
    return lambda notebook: notebook.cells[index].metadata.update(tags=list(new_tags))


BROKEN = [
    (check_executed_in_order, in_cell(5, execution_count=None)),
    (check_executed_in_order, in_cell(5, execution_count=9)),
    (check_no_error, in_cell(5, outputs=[nbformat.v4.new_output("error", ename="E")])),
    (check_no_stderr, in_cell(5, outputs=[stream("stderr", "warning")])),
    (check_no_widget_state, lambda notebook: notebook.metadata.update(widgets={})),
    (
        check_no_widget_state,
        in_cell(5, outputs=[nbformat.v4.new_output("display_data", {WIDGET_VIEW: {}})]),
    ),
    (check_parameters, retag(2)),
    (check_parameters, retag(3, "parameters")),
    (check_parameters, retag(3, "injected-parameters")),
    (check_parameters, in_cell(2, source='PROFILE = "smoke"')),
    (check_parameters, in_cell(2, source='PROFILE = "laptop"\nSTEPS = 2 * 3')),
    (check_parameters, in_cell(2, source='PROFILE = "laptop"\nprint(PROFILE)')),
    (check_parameters, in_cell(2, source="SEED = 0")),
    (check_picture, in_cell(4, outputs=[])),
    (check_first_cell, in_cell(0, cell_type="code")),
    (check_first_cell, in_first_cell("1 min", "soon")),
    (check_first_cell, in_first_cell("GiB", "big")),
    (check_first_cell, in_first_cell("gpu", "large")),
    (check_first_cell, in_first_cell("01_x", "02_x")),
    (check_install_cell, in_cell(1, source="!pip install qsft-lite")),
    (check_short_lines, in_cell(5, source="x = " + "1 + " * 30 + "1")),
    (check_short_cells, in_cell(5, source="x = 1\n" * 41)),
    (check_no_machine_path, in_cell(5, source='open("/home/me/x")')),
    (check_no_machine_path, in_cell(5, outputs=[stream("stdout", "C:\\Users\\me")])),
    (
        check_no_machine_path,
        in_cell(
            5,
            outputs=[nbformat.v4.new_output("execute_result", {"text/html": "<a href=/root/x>"})],
        ),
    ),
    (check_widgets, retag(4)),
    (check_widgets, in_cell(4, outputs=[])),
    (check_widgets, in_cell(5, source="import ipywidgets\nipywidgets.interact(f, x=3)")),
    (check_widgets, in_cell(5, source="from ipywidgets import interact as i\ni(f, x=3)")),
    (
        check_widgets,
        in_cell(
            5, source="from qsft_lite.tasks.chess import widgets as w\nw.board_explorer(games)"
        ),
    ),
    (
        check_widgets,
        in_cell(5, source="from qsft_lite.viz.explorers import simplex_explorer as s\ns()"),
    ),
    (check_recorded_under_its_name, in_cell(3, source='run = notebook.start("02_y")')),
    (check_recorded_under_its_name, in_cell(3, source="run = None")),
    (check_record_last, in_cell(-1, source="print(1)")),
    (check_folded, in_cell(1, metadata={})),
    (check_folded, in_cell(5, source="figure, axes = plt.subplots()")),
    (check_alternative_texts, lambda notebook: notebook.cells[4].outputs[0].update(metadata={})),
    (check_exercises, in_cell(6, source='answer_1 = 2\nexercises.check(answer_1, 2, hint="")')),
    (check_exercises, in_cell(6, outputs=[stream("stdout", "right\n")])),
    (check_exercises, in_cell(7, source="The answer is 2.")),
    (check_exercises, in_cell(9, source=two_exercises()[1].source)),
    (check_predictions, in_cell(10, source="More.")),
    (check_glossary_linked, in_first_cell("notation", "tasks")),
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_sound_notebook_passes(check):
    notebook = sound_notebook()
    nbformat.validate(notebook)
    check(notebook, "01_x.ipynb")


@pytest.mark.parametrize(("check", "damage"), BROKEN, ids=lambda f: getattr(f, "__name__", ""))
def test_a_broken_notebook_fails(check, damage):
    notebook = sound_notebook()
    before = copy.deepcopy(notebook)
    damage(notebook)
    assert notebook != before
    with pytest.raises((AssertionError, ValueError)):
        check(notebook, "01_x.ipynb")


def test_every_check_is_seen_to_fail():
    assert {check for check, _ in BROKEN} == set(CHECKS)
