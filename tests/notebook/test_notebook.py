"""The notebook machine: set-up, records, and a strict runner that leaves nothing half done."""

import importlib
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import hypothesis.strategies as st
import nbformat
import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from matplotlib.figure import Figure
from papermill.translators import PythonTranslator
from sample_results import a_result

from qsft_lite import notebook
from qsft_lite.notebook import __main__ as command_line
from qsft_lite.notebook import parameters, runner, several
from qsft_lite.notebook.__main__ import main
from qsft_lite.notebook.parameters import ParameterError
from qsft_lite.notebook.runner import NotebookError

SETTINGS = {profile: {"seeds": 2, "steps": 10} for profile in ("smoke", "laptop", "gpu")}


def start(**changes):
    return notebook.start(
        "00_test", **{"profile": "laptop", "seed": 0, "settings": SETTINGS} | changes
    )


@pytest.fixture(autouse=True)
def threads_restored():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# Set-up


@pytest.mark.parametrize(("profile", "nearest"), [("lap-top", "laptop"), ("smoked", "smoke")])
def test_an_unknown_profile_names_the_nearest(profile, nearest):
    with pytest.raises(ValueError, match=f"unknown profile '{profile}': did you mean '{nearest}'"):
        start(profile=profile)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"smoke": {}, "laptop": {}}, "must have the profiles"),
        (SETTINGS | {"gpu": {"seeds": 2}}, "'laptop' and 'gpu' differ in .'steps'."),
    ],
)
def test_settings_must_cover_every_profile(settings, message):
    with pytest.raises(ValueError, match=message):
        start(settings=settings)


@pytest.mark.parametrize("seed", [-1, 2**32, 1.0, "0", True])
def test_a_bad_seed_is_refused(seed):
    with pytest.raises(ValueError, match="seed must be an integer"):
        start(seed=seed)


def test_the_seed_fixes_every_generator():
    def draws(seed):
        start(seed=seed)
        return random.random(), np.random.random(), torch.rand(1).item()

    first, again, other = draws(3), draws(3), draws(4)
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_threads(monkeypatch):
    monkeypatch.setenv("QSFT_THREADS", "1")
    assert start().threads == torch.get_num_threads() == 1
    monkeypatch.setenv("QSFT_THREADS", "many")
    with pytest.raises(ValueError, match="must be a whole number"):
        start()
    monkeypatch.delenv("QSFT_THREADS")
    assert 1 <= start().threads <= 4


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity on this system")
def test_threads_respect_affinity(monkeypatch):
    monkeypatch.delenv("QSFT_THREADS", raising=False)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert start().threads == 1
    finally:
        os.sched_setaffinity(0, before)


def test_settings_table_marks_the_active_profile():
    settings = {"gpu": {"n": 3}, "smoke": {"n": 1}, "laptop": {"n": 2}}
    run = start(settings=settings, profile="smoke")
    assert run.settings == {"n": 1}
    table = run.settings_table()
    assert list(table.columns) == ["smoke (this run)", "laptop", "gpu"]
    assert table.loc["n"].tolist() == [1, 2, 3]


# Pictures and records


def test_a_figure_is_saved_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("QSFT_FIGURES", str(tmp_path / "figures"))
    figure = Figure(figsize=(1, 1))
    path = start().save_figure(figure, "00_picture")
    assert path == tmp_path / "figures" / "00_picture.png"
    first = path.read_bytes()
    assert first.startswith(b"\x89PNG")
    assert start().save_figure(figure, "00_picture").read_bytes() == first
    with monkeypatch.context() as patch:
        patch.setattr(figure, "savefig", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            start().save_figure(figure, "00_picture")
    assert path.read_bytes() == first
    assert [p.name for p in path.parent.iterdir()] == ["00_picture.png"]


def test_a_record_says_where_its_numbers_come_from(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("QSFT_RESULTS", str(tmp_path))
    monkeypatch.delenv("QSFT_COMMAND", raising=False)
    run = start(seed=7)
    block = np.ones(2**24)  # 128 MiB, so that the peak is at least that
    run.record(headline={"third": np.float64(1 / 3)}, raw={"ones": block[:2]}, data_hash="abc")
    assert capsys.readouterr().out == "Recorded 00_test.laptop.json\n"
    result = json.loads((tmp_path / "00_test.laptop.json").read_text())
    assert result["headline"] == {"third": 1 / 3}
    assert result["raw"] == {"ones": [1.0, 1.0]}
    assert result["settings"] == {"seeds": 2, "steps": 10}
    assert (result["seed"], result["data_hash"], result["tables"]) == (7, "abc", {})
    assert result["command"] == "interactive"
    assert result["versions"]["torch"] == torch.__version__
    assert result["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    used = psutil.Process().memory_info().rss / 2**20
    total = psutil.virtual_memory().total / 2**20
    assert 128 < 0.9 * used < result["peak_memory_mib"] < total
    assert 0 < result["seconds"] < 3600


def test_the_commit_of_a_result_is_the_checkout_s(tmp_path, monkeypatch):
    def git(*words):
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        command = ["git", *identity, *words]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)

    # Not by attributes: the package's face has a function of the module's name.
    module = importlib.import_module("qsft_lite.results.provenance")
    monkeypatch.setattr(module, "project_root", lambda: tmp_path)
    provenance = module.provenance
    assert provenance()["commit"] == "unknown"
    git("init")
    assert provenance()["commit"] == "unknown"
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "first")
    commit = git("rev-parse", "HEAD").stdout.strip()
    assert (provenance()["commit"], provenance()["dirty"]) == (commit, False)
    (tmp_path / "file").write_text("2")
    assert (provenance()["commit"], provenance()["dirty"]) == (commit, True)


# Parameters

DEFAULTS = {"SEED": 0, "RATE": 0.1, "NAME": "a", "LIST": [1], "FLAG": True, "ANY": None}


@pytest.mark.parametrize(
    "given",
    [{}, {"SEED": 3}, {"RATE": 1}, {"RATE": 0.5, "NAME": "b"}, {"LIST": []}, {"ANY": "x"}],
)
def test_good_parameters_pass(given):
    assert parameters.check_parameters(given, DEFAULTS) == given


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ({"LIST": (1, (2, [3]))}, {"LIST": [1, [2, [3]]]}),
        ({"ANY": {"k": (1, 2)}}, {"ANY": {"k": [1, 2]}}),
        ({"RATE": np.float64(0.5)}, {"RATE": 0.5}),
        ({"RATE": np.int64(2)}, {"RATE": 2}),
        ({"FLAG": np.bool_(False)}, {"FLAG": False}),
        ({"ANY": [np.int32(3)]}, {"ANY": [3]}),
        ({"NAME": Path("a") / "b"}, {"NAME": os.path.join("a", "b")}),
    ],
)
def test_what_can_be_written_is_converted(given, written):
    assert repr(parameters.check_parameters(given, DEFAULTS)) == repr(written)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"SED": 1}, "unknown parameter 'SED': did you mean 'SEED'?.*Known:.*'RATE'"),
        ({"seed": 1}, "unknown parameter 'seed'"),
        ({"SEED": "1"}, r"'SEED' is a int \(default 0\), not a str: '1'"),
        ({"SEED": 1.0}, "not a float"),
        ({"SEED": np.float64(1)}, "'SEED'.*not a float"),
        ({"SEED": True}, "not a bool"),
        ({"FLAG": 1}, "not a int"),
        ({"NAME": None}, "not a NoneType"),
        ({"NAME": "spiele\udcfc"}, "'NAME' is .* no valid text"),
        ({"ANY": b"x"}, "'ANY' is a bytes"),
        ({"ANY": {1}}, "'ANY' is a set"),
        ({"ANY": Path("x")}, "'ANY' is a .*Path"),
        ({"ANY": np.zeros(2)}, "'ANY' is a ndarray"),
        ({"ANY": [0, {"k": 1j}]}, r"'ANY' has at ANY\[1\]\['k'\] a complex, 1j"),
        ({"ANY": {1: 2}}, "'ANY' is a dict with the key 1, which is not a str"),
        ({"LIST": [float("nan")]}, r"'LIST' has at LIST\[0\] nan"),
        ({"LIST": [[Path("x")]]}, r"at LIST\[0\]\[0\] a .*Path"),
    ],
)
def test_bad_parameters_are_refused(given, message):
    with pytest.raises(ParameterError, match=message):
        parameters.check_parameters(given, DEFAULTS)


def test_any_parameter_is_unknown_where_there_is_none():
    with pytest.raises(ParameterError, match=r"unknown parameter 'SEED': Known: \[\]"):
        parameters.check_parameters({"SEED": 1}, {})


FINITE = st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.text() | st.sampled_from(["'a'", '"', "1e3", "None", "-x", "inf", "nan", "b'x'"])
LEAVES = st.none() | st.booleans() | st.integers() | FINITE | WORDS.filter(parameters._is_text)
VALUES = st.floats() | st.recursive(LEAVES, lambda v: st.lists(v) | st.dictionaries(st.text(), v))


@given(st.dictionaries(st.sampled_from("ABC"), VALUES | st.tuples(LEAVES)), st.booleans())
def test_parameters_arrive_as_they_were_given(given, typed):
    """In the cell that papermill writes, and in the recorded command, whatever the defaults."""
    try:
        checked = parameters.check_parameters(given, dict.fromkeys("ABC"))
    except ParameterError:  # text that is none; keys of a dict are text as well
        return
    arrived = {}
    exec(PythonTranslator.codify(checked), arrived)
    assert repr({name: arrived[name] for name in checked}) == repr(checked)

    defaults = {name: "" if typed and isinstance(v, str) else None for name, v in checked.items()}
    path = runner.project_root() / "notebooks/a b.ipynb"
    words = shlex.split(runner._command(path, checked, defaults))
    assert words[:5] == ["python", "-m", "qsft_lite.notebook", "run", "notebooks/a b.ipynb"]
    pairs, rest = command_line._parameter_words(words[3:])
    assert rest == ["run", "notebooks/a b.ipynb"]
    read = {name: parameters.from_word(word, defaults[name]) for name, word in pairs}
    assert repr(read) == repr(checked)


@pytest.mark.parametrize(
    ("word", "default", "value"),
    [
        ("-1e-3", 0.1, -1e-3),
        ("-5.", 0.1, -5.0),
        ("-inf", None, float("-inf")),
        ("-x", None, "-x"),
        ("2024", "", "2024"),
        ("None", "", "None"),
        ("1e5", "", "1e5"),
        (r"\n", "", r"\n"),
        (r'"\n"', "", "\n"),
        ("'2024'", "", "2024"),
        ("2024", None, 2024),
        ("(1, 2)", None, (1, 2)),
        ("{[]: 1}", None, "{[]: 1}"),
    ],
)
def test_words_of_the_command_line(word, default, value):
    pairs, rest = command_line._parameter_words(
        ["run", "a.ipynb", "-p", "A", word, "--output", "b"]
    )
    assert (pairs, rest) == ([("A", word)], ["run", "a.ipynb", "--output", "b"])
    assert repr(parameters.from_word(word, default)) == repr(value)


# Running one notebook


def write_notebook(path, *sources, parameters="SEED = 0"):
    """A notebook with a heading, a parameters cell and the given code cells."""
    new_code = nbformat.v4.new_code_cell
    cells = [nbformat.v4.new_markdown_cell("# Title")]
    cells.append(new_code(parameters, metadata={"tags": ["parameters"]}))
    path.parent.mkdir(exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells + [new_code(s) for s in sources]), path)
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("source", ["A = 1\nB = A", "A = 2 * 3", "import os", "a.b = 1", "%time"])
def test_a_parameters_cell_holds_literals_only(tmp_path, source):
    path = write_notebook(tmp_path / "a.ipynb", parameters=source)
    with pytest.raises(ParameterError, match=r"a\.ipynb: parameters cell"):
        notebook.run(path, {}, tmp_path / "out.ipynb")


def test_a_wrong_parameter_stops_before_anything_runs(tmp_path):
    path = write_notebook(tmp_path / "a.ipynb", "open('ran', 'w')")
    with pytest.raises(ParameterError, match=r"a\.ipynb: unknown parameter 'SEEDS'.*'SEED'"):
        notebook.run(path, {"SEEDS": 1}, tmp_path / "out.ipynb")
    assert names(tmp_path) == ["a.ipynb"]


def test_what_is_no_notebook_is_refused(tmp_path):
    for text in (b"no", b"[1]", b"{}", b"\xff", b""):
        (tmp_path / "a.ipynb").write_bytes(text)
        with pytest.raises(NotebookError, match=r"a\.ipynb: not a notebook"):
            notebook.run(tmp_path / "a.ipynb", {}, tmp_path / "out.ipynb")
    with pytest.raises(NotebookError, match="not a notebook"):
        notebook.run(tmp_path, {}, tmp_path / "out.ipynb")


def test_a_byte_order_mark_is_no_part_of_a_notebook(tmp_path):
    path = write_notebook(tmp_path / "a.ipynb")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert runner.read_notebook(path).cells[0].source == "# Title"


def test_an_executed_copy_is_clean(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")  # a backend that would show no picture
    path = write_notebook(
        tmp_path / "in" / "a.ipynb",
        "import matplotlib.pyplot as plt\nplt.plot([SEED]);",
        "import os, sys\nprint(SEED, os.getcwd(), sys.executable, sep='\\n')\n"
        "print(os.environ['QSFT_COMMAND'])\n"
        "from qsft_lite.notebook import user_path\nprint(user_path('a/b'))",
        "import ipywidgets\nipywidgets.IntSlider()",
    )
    before = dict(os.environ), path.read_bytes()
    output = notebook.run(str(path), {"SEED": 5}, str(tmp_path / "new" / "out.ipynb"))
    assert (dict(os.environ), path.read_bytes()) == before
    assert names(tmp_path / "new") == ["out.ipynb"]
    executed = nbformat.read(output, as_version=4)
    nbformat.validate(executed)
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [1, 2, 3, 4, 5]
    assert "image/png" in code[2].outputs[-1].data
    folder = tmp_path / "in"
    assert "".join(output.text for output in code[3].outputs).splitlines() == [
        "5",
        str(folder),
        sys.executable,
        "python -m qsft_lite.notebook run a.ipynb -p SEED 5",
        str(tmp_path / "a" / "b"),
    ]
    assert code[4].outputs == [], "a widget without its state"
    assert set(executed.metadata) <= {"kernelspec", "language_info"}
    assert [dict(cell.metadata) for cell in executed.cells] == [
        {},
        {"tags": ["parameters"]},
        {"tags": ["injected-parameters"]},
        {},
        {},
        {},
    ]


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("y = 2\n1 / 0", r"code cell 3 \('y = 2'\): ZeroDivisionError: division by zero"),
        ("raise SystemExit(0)", "code cell 3 .*: SystemExit: 0"),
        ("import os; os._exit(1)", "code cell 3 .*: the kernel died"),
    ],
)
def test_a_failure_names_the_cell_and_keeps_the_old_output(tmp_path, source, cause):
    path = write_notebook(tmp_path / "a.ipynb", "x = 1", source, "print('not reached')")
    (tmp_path / "out.ipynb").write_text("old")
    with pytest.raises(NotebookError, match=rf"a\.ipynb, {cause}") as caught:
        notebook.run(path, {"SEED": 1}, tmp_path / "out.ipynb")
    assert (tmp_path / "out.ipynb").read_text() == "old"
    assert names(tmp_path) == ["a.ipynb", "out.failed.ipynb", "out.ipynb"]
    failed = tmp_path / "out.failed.ipynb"
    assert str(caught.value).endswith(f"as far as it ran: {failed}")
    code = [c for c in nbformat.read(failed, as_version=4).cells if c.cell_type == "code"]
    assert [c.source for c in code][-3:] == ["x = 1", source, "print('not reached')"]
    assert [code[-3].execution_count, code[-1].execution_count] == [3, None]


def test_the_place_of_the_output_is_looked_at_first(tmp_path):
    path = write_notebook(tmp_path / "a.ipynb", "open('ran', 'w')")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotebookError, match="a folder: name a file in it"):
        notebook.run(path, {}, tmp_path)
    with pytest.raises(NotebookError, match=r"no file can be written in .*file"):
        notebook.run(path, {}, tmp_path / "file" / "deeper" / "out.ipynb")
    assert names(tmp_path) == ["a.ipynb", "file"]


def test_what_cannot_be_written_after_all_is_kept_elsewhere(tmp_path, monkeypatch):
    path = write_notebook(tmp_path / "a.ipynb", "print('an hour')")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(runner, "replace_file", full)
    with pytest.raises(NotebookError, match=r"out\.ipynb cannot be written") as caught:
        notebook.run(path, {}, tmp_path / "out.ipynb")
    kept = nbformat.read(str(caught.value).split()[-1], as_version=4)
    assert kept.cells[-1].outputs[0].text == "an hour\n"


def test_an_unreadable_partial_does_not_hide_the_cause(tmp_path):
    (tmp_path / "partial.ipynb").write_text("")
    partial = tmp_path / "partial.ipynb"
    error = runner._notebook_error(Path("a.ipynb"), partial, OSError("the cause"))
    assert str(error) == "a.ipynb, before its first cell: OSError: the cause"


def test_a_run_can_be_watched(tmp_path, capsys):
    """What its cells print comes at once, and the notebook so far lies beside the output."""
    look = (
        "import sys, time\nfrom pathlib import Path\n"
        "so_far = Path('out {SEED}.running.ipynb').read_text()\n"
        "print('seen' if '\"an hour' in so_far else 'not seen', file=sys.stderr)"
    )
    path = write_notebook(tmp_path / "a.ipynb", "print('an hour')", look)
    notebook.run(path, {"SEED": 5}, tmp_path / "out {SEED}.ipynb")
    said = capsys.readouterr()
    assert (said.out, said.err) == ("an hour\n", "seen\n")
    assert names(tmp_path) == ["a.ipynb", "out {SEED}.ipynb"]


def test_parameters_of_an_earlier_run_are_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_notebook(
        tmp_path / "a.ipynb",
        "import os\nprint(A, B, os.environ['QSFT_COMMAND'])",
        parameters="A = 1.5\nB = None",
    )

    def printed(name):
        return nbformat.read(tmp_path / name, as_version=4).cells[-1].outputs[0].text

    notebook.run("a.ipynb", {"A": 9}, "one.ipynb")
    assert capsys.readouterr().err == ""
    notebook.run("one.ipynb", {}, "two.ipynb")
    assert "left out, from an earlier run:\n# Parameters\nA = 9" in capsys.readouterr().err
    notebook.run("one.ipynb", {"B": 7}, "three.ipynb")
    command = "python -m qsft_lite.notebook run"
    assert printed("one.ipynb") == f"9 None {command} a.ipynb -p A 9\n"
    assert printed("two.ipynb") == f"1.5 None {command} one.ipynb\n"
    assert printed("three.ipynb") == f"1.5 7 {command} one.ipynb -p B 7\n"


def test_paths_of_a_user(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QSFT_CALLER_FOLDER", raising=False)
    assert notebook.user_path("a/b") == tmp_path / "a" / "b"
    monkeypatch.setenv("QSFT_CALLER_FOLDER", str(tmp_path / "shell"))
    assert notebook.user_path("a") == tmp_path / "shell" / "a"
    assert notebook.user_path(str(tmp_path)) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    assert notebook.user_path("~/a") == tmp_path / "home" / "a"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_leaves_no_file_and_no_kernel(tmp_path, number):
    path = write_notebook(
        tmp_path / "a.ipynb",
        "import os, time\nfrom pathlib import Path\nPath('aside').write_text(str(os.getpid()))\n"
        "Path('aside').rename('kernel')\ntime.sleep(600)",
    )
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    words = [sys.executable, "-m", "qsft_lite.notebook", "run", str(path)]
    words += ["--output", str(tmp_path / "out.ipynb")]
    # Jobs in the background of a shell ignore Ctrl-C, and so do their children: not this one.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        child = subprocess.Popen(words, env=os.environ | {"TMPDIR": str(scratch)})
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        wait_until((tmp_path / "kernel").exists)
        kernel = psutil.Process(int((tmp_path / "kernel").read_text()))
        child.send_signal(number)
        assert child.wait(timeout=300) == 130
        wait_until(lambda: not kernel.is_running() or kernel.status() == psutil.STATUS_ZOMBIE)
    finally:
        child.kill()
        child.wait()
    assert names(tmp_path) == ["a.ipynb", "kernel", "scratch"]
    assert not any(name.startswith("qsft-") for name in names(scratch))


def wait_until(condition):
    """Wait for a condition, a minute at most."""
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("waited a minute in vain")


def test_the_command_line_runs_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = write_notebook(
        tmp_path / "a.ipynb", "print(SEED, NAME)", parameters="SEED = 0\nNAME = 'x'"
    )
    words = ["run", str(path), "-p", "SEED", "-3", "-p", "NAME", "-5 words"]
    assert main(words) == 0
    executed = nbformat.read(tmp_path / "build" / "a.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text == "-3 -5 words\n"
    assert main(["run", str(path), "-p", "SEED"]) == 1
    assert "-p needs a NAME and a VALUE" in capsys.readouterr().err
    assert main(["run", str(path), "-p", "SEED", "x"]) == 1
    assert "'SEED' is a int" in capsys.readouterr().err
    assert main(["run", "missing.ipynb"]) == 1
    assert "missing.ipynb" in capsys.readouterr().err


# Running all

RECORDING = (
    "from qsft_lite import notebook\n"
    "settings = {'smoke': {'n': 1}, 'laptop': {'n': 2}, 'gpu': {'n': 3}}\n"
    "run = notebook.start('00_good', profile=PROFILE, seed=0, settings=settings)\n"
    "import matplotlib.pyplot as plt\n"
    "run.save_figure(plt.figure(), '00_picture')",
    "run.record(headline={'n': run.settings['n'], 'score': 0.123456})",
)
PROFILE = 'PROFILE = "laptop"'


def test_all_goes_on_after_a_failure(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "notebooks"
    write_notebook(folder / "00_good.ipynb", *RECORDING, parameters=PROFILE)
    write_notebook(folder / "01_bad.ipynb", "x = 1", "1 / 0", parameters=PROFILE)
    write_notebook(folder / "02_profileless.ipynb")
    write_notebook(folder / "03_last.ipynb", "x = 2", parameters=PROFILE)
    write_notebook(folder / "template_task.ipynb", "x = 3", parameters=PROFILE)
    output = tmp_path / "build" / "smoke"
    output.mkdir(parents=True)
    (output / "03_last.failed.ipynb").write_text("from an earlier run")

    assert main(["all", "--profile", "smoke"]) == 1

    said = capsys.readouterr()
    header, *rows = said.out.strip().splitlines()
    assert header.split() == ["notebook", "seconds", "peak", "MiB", "headline", "numbers"]
    stems = ["00_good", "01_bad", "02_profileless", "03_last", "template_task"]
    assert [row.split()[0] for row in rows] == stems
    assert rows[0].endswith("  n: 1; score: 0.123")
    failing = "FAILED 01_bad.ipynb, code cell 3 ('1 / 0'): ZeroDivisionError: division by zero"
    assert rows[1].endswith(failing)
    assert "unknown parameter 'PROFILE': did you mean 'SEED'?" in rows[2]
    assert rows[3].split()[2:] == ["-", "-"]
    assert "----> 1 1 / 0" in said.err, "the traceback"
    assert "started [2/5] 01_bad\n" in said.err
    assert names(output) == [
        "00_good.ipynb",
        "01_bad.failed.ipynb",
        "03_last.ipynb",
        "figures",
        "results",
        "template_task.ipynb",
    ]
    assert names(output / "figures") == ["00_picture.png"]
    assert names(output / "results") == ["00_good.smoke.json"]
    result = json.loads((output / "results" / "00_good.smoke.json").read_text())
    assert result["command"].endswith("run 00_good.ipynb -p PROFILE smoke")


def test_a_run_at_laptop_changes_nothing_that_is_committed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_notebook(tmp_path / "notebooks/00_good.ipynb", *RECORDING, parameters=PROFILE)
    before = path.read_bytes()
    assert main(["all"]) == 0
    assert names(tmp_path) == ["build", "notebooks"]
    assert path.read_bytes() == before
    assert names(tmp_path / "build" / "laptop" / "figures") == ["00_picture.png"]


def test_side_by_side(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(several, "project_root", lambda: tmp_path)
    monkeypatch.setattr(several, "usable_cpus", lambda: 4)
    monkeypatch.delenv("QSFT_THREADS", raising=False)
    folder = tmp_path / "notebooks"
    source = "import os, time\nopen({!r}, 'w').write(os.environ['QSFT_THREADS'])\n"
    wait = "while not os.path.exists({!r}): time.sleep(.1)"
    # Each of the first two waits for the other: they run at the same time, or fail.
    first, second = (source + wait).format("a", "b"), (source + wait).format("b", "a")
    write_notebook(folder / "00_short.ipynb", first, parameters=PROFILE)
    write_notebook(folder / "01_long.ipynb", second, parameters=PROFILE)
    write_notebook(folder / "02_bad.ipynb", "1 / 0", parameters=PROFILE)
    for name, seconds, threads in (("00_short", 5.0, 1), ("01_long", 9.0, 4), ("02_bad", 1.0, 1)):
        a_result(tmp_path, name, seconds=seconds, threads=threads, peak_memory_mib=1.0)

    assert main(["all", "--jobs", "2"]) == 1

    said = capsys.readouterr()
    started = [line.split()[1] for line in said.err.splitlines() if line.startswith("started ")]
    assert started == ["01_long", "00_short", "02_bad"], "the longest first"
    assert [row.split()[0] for row in said.out.strip().splitlines()[1:]] == sorted(started)
    assert "02_bad.ipynb, code cell 2 ('1 / 0'): ZeroDivisionError" in said.out
    assert "----> 1 1 / 0" in said.err
    assert names(tmp_path / "build" / "laptop") == [
        "00_short.ipynb",
        "01_long.ipynb",
        "02_bad.failed.ipynb",
    ]
    assert [(folder / name).read_text() for name in "ab"] == ["1", "2"], "threads: recorded, shared"


def test_side_by_side_where_memory_allows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(several, "project_root", lambda: tmp_path)
    monkeypatch.setattr(several, "available_memory_mib", lambda: 150.0)
    for name in ("00_a", "01_b"):
        write_notebook(tmp_path / "notebooks" / f"{name}.ipynb", parameters=PROFILE)
        a_result(tmp_path, name, peak_memory_mib=100.0)
    assert main(["all", "--jobs", "2"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "0" in line]
    assert [line.split()[0] for line in lines] == ["started", "[1/2]", "started", "[2/2]"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_an_interruption_ends_all_that_run_side_by_side(tmp_path):
    for name in "ab":
        write_notebook(
            tmp_path / "notebooks" / f"0_{name}.ipynb",
            f"import os, time\nopen('aside{name}', 'w').write(str(os.getpid()))\n"
            f"os.rename('aside{name}', 'kernel{name}')\ntime.sleep(600)",
            parameters=PROFILE,
        )
    words = [sys.executable, "-m", "qsft_lite.notebook", "all", "--jobs", "2"]
    # In a group of its own, as a terminal's Ctrl-C reaches it, also where these tests ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    child = subprocess.Popen(words, cwd=tmp_path, start_new_session=True)
    signal.signal(signal.SIGINT, before)
    kernels = [tmp_path / "notebooks" / f"kernel{name}" for name in "ab"]
    try:
        wait_until(lambda: all(kernel.exists() for kernel in kernels))
        processes = [psutil.Process(int(kernel.read_text())) for kernel in kernels]
        os.killpg(child.pid, signal.SIGINT)
        assert child.wait(timeout=300) == 130
        for process in processes:
            wait_until(lambda p=process: not p.is_running() or p.status() == "zombie")
    finally:
        child.kill()
        child.wait()


def test_all_stops_at_an_interruption_and_prints_what_ran(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("00_a", "01_b", "02_c"):
        write_notebook(tmp_path / "notebooks" / f"{name}.ipynb", parameters=PROFILE)

    def execute_one(path, *_, **_options):
        if path.stem == "01_b":
            raise KeyboardInterrupt
        return several.Outcome(path.stem, 1.0, None, None)

    monkeypatch.setattr(several, "execute_one", execute_one)
    assert main(["all"]) == 130
    said = capsys.readouterr().out
    assert "00_a" in said
    assert "01_b" not in said
    assert "02_c" not in said


def test_without_notebooks_all_says_where_to_run_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["all"]) == 1
    assert "run from the project's folder" in capsys.readouterr().err


def test_record_changes_all_or_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = write_notebook(tmp_path / "notebooks/00_good.ipynb", *RECORDING, parameters=PROFILE)
    bad = write_notebook(tmp_path / "notebooks/01_bad.ipynb", "1 / 0", parameters=PROFILE)
    (tmp_path / "README.md").write_text("text\n")
    before = path.read_bytes()
    assert main(["record"]) == 1
    assert path.read_bytes() == before
    assert names(tmp_path) == ["README.md", "build", "notebooks"]

    bad.unlink()
    assert main(["record"]) == 0
    executed = nbformat.read(path, as_version=4)
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [1, 2, 3]
    assert not any("injected-parameters" in cell.metadata.get("tags", []) for cell in code)
    assert names(tmp_path / "figures") == ["00_picture.png"]
    assert names(tmp_path / "notebooks") == ["00_good.ipynb"]
    recorded = tmp_path / "data" / "results"
    assert names(recorded) == ["00_good.laptop.json", "00_good.smoke.json"]
    headlines = [json.loads(p.read_text())["headline"]["n"] for p in sorted(recorded.iterdir())]
    assert headlines == [2, 1]
