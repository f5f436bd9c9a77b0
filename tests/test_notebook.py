"""The notebook machine: set-up, records, and a strict runner that leaves nothing half done."""

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time

import hypothesis.strategies as st
import nbformat
import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from matplotlib.figure import Figure

from qsft_lite import notebook, runner
from qsft_lite.runner import NotebookError, ParameterError

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

    monkeypatch.setattr("qsft_lite.results.project_root", lambda: tmp_path)
    from qsft_lite.results import provenance

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
    "parameters",
    [{}, {"SEED": 3}, {"RATE": 1}, {"RATE": 0.5, "NAME": "b"}, {"LIST": []}, {"ANY": "x"}],
)
def test_good_parameters_pass(parameters):
    runner.check_parameters(parameters, DEFAULTS)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"SED": 1}, "unknown parameter 'SED': did you mean 'SEED'?.*Known:.*'RATE'"),
        ({"seed": 1}, "unknown parameter 'seed'"),
        ({"SEED": "1"}, r"'SEED' is a int \(default 0\), not a str: '1'"),
        ({"SEED": 1.0}, "not a float"),
        ({"SEED": True}, "not a bool"),
        ({"FLAG": 1}, "not a int"),
        ({"NAME": None}, "not a NoneType"),
        ({"LIST": (1,)}, "not a tuple"),
    ],
)
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises(ParameterError, match=message):
        runner.check_parameters(parameters, DEFAULTS)


def test_any_parameter_is_unknown_where_there_is_none():
    with pytest.raises(ParameterError, match=r"unknown parameter 'SEED': Known: \[\]"):
        runner.check_parameters({"SEED": 1}, {})


FINITE = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.none() | st.booleans() | st.integers() | FINITE | st.text() | st.lists(FINITE)


@given(st.dictionaries(st.sampled_from("ABC"), VALUES))
def test_the_recorded_command_gives_the_same_parameters(parameters):
    words = shlex.split(runner._command(runner.project_root() / "notebooks/a b.ipynb", parameters))
    assert words[:5] == ["python", "-m", "qsft_lite.notebook", "run", "notebooks/a b.ipynb"]
    assert words[5::3] == ["-p"] * len(parameters)
    read = zip(words[6::3], map(runner._literal, words[7::3]), strict=True)
    assert repr(dict(read)) == repr(parameters)


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
    (tmp_path / "a.ipynb").write_text("no")
    with pytest.raises(NotebookError, match=r"a\.ipynb: not a notebook"):
        notebook.run(tmp_path / "a.ipynb", {}, tmp_path / "out.ipynb")


def test_an_executed_copy_is_clean(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")  # a backend that would show no picture
    path = write_notebook(
        tmp_path / "in" / "a.ipynb",
        "import matplotlib.pyplot as plt\nplt.plot([SEED]);",
        "import os, sys\nprint(SEED, os.getcwd(), sys.executable, sep='\\n')\n"
        "print(os.environ['QSFT_COMMAND'])",
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
    assert code[3].outputs[0].text.splitlines() == [
        "5",
        str(folder),
        sys.executable,
        "python -m qsft_lite.notebook run a.ipynb -p SEED 5",
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
    with pytest.raises(NotebookError, match=rf"a\.ipynb, {cause}"):
        notebook.run(path, {"SEED": 1}, tmp_path / "out.ipynb")
    assert (tmp_path / "out.ipynb").read_text() == "old"
    assert names(tmp_path) == ["a.ipynb", "out.ipynb"]


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
    words = ["run", str(path), "-p", "SEED", "-3", "-p", "NAME", "two words"]
    assert runner.main(words) == 0
    executed = nbformat.read(tmp_path / "build" / "a.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text == "-3 two words\n"
    assert runner.main(["run", str(path), "-p", "SEED", "x"]) == 1
    assert "'SEED' is a int" in capsys.readouterr().err
    assert runner.main(["run", "missing.ipynb"]) == 1
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
    write_notebook(folder / "template_task.ipynb", "1 / 0")
    output = tmp_path / "build" / "smoke"
    output.mkdir(parents=True)
    (output / "03_last.failed.ipynb").write_text("from an earlier run")

    assert runner.main(["all", "--profile", "smoke"]) == 1

    said = capsys.readouterr()
    header, *rows = said.out.strip().splitlines()
    assert header.split() == ["notebook", "seconds", "peak", "MiB", "headline", "numbers"]
    assert [row.split()[0] for row in rows] == ["00_good", "01_bad", "02_profileless", "03_last"]
    assert rows[0].endswith("  n: 1; score: 0.123")
    failing = "FAILED 01_bad.ipynb, code cell 3 ('1 / 0'): ZeroDivisionError: division by zero"
    assert rows[1].endswith(failing)
    assert "unknown parameter 'PROFILE': did you mean 'SEED'?" in rows[2]
    assert rows[3].split()[2:] == ["-", "-"]
    assert "----> 1 1 / 0" in said.err, "the traceback"
    assert "[2/4] 01_bad" in said.err, "the progress bar names the notebook"
    assert names(output) == [
        "00_good.ipynb",
        "01_bad.failed.ipynb",
        "03_last.ipynb",
        "figures",
        "results",
    ]
    assert names(output / "figures") == ["00_picture.png"]
    assert names(output / "results") == ["00_good.smoke.json"]
    result = json.loads((output / "results" / "00_good.smoke.json").read_text())
    assert result["command"].endswith("run 00_good.ipynb -p PROFILE smoke")


def test_all_stops_at_an_interruption_and_prints_what_ran(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("00_a", "01_b", "02_c"):
        write_notebook(tmp_path / "notebooks" / f"{name}.ipynb", parameters=PROFILE)

    def run_one(path, *_):
        if path.stem == "01_b":
            raise KeyboardInterrupt
        return runner.Outcome(path.stem, 1.0, None, None)

    monkeypatch.setattr(runner, "_run_one", run_one)
    assert runner.main(["all"]) == 130
    said = capsys.readouterr().out
    assert "00_a" in said
    assert "01_b" not in said
    assert "02_c" not in said


def test_without_notebooks_all_says_where_to_run_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert runner.main(["all"]) == 1
    assert "run from the project's folder" in capsys.readouterr().err


def test_record_changes_all_or_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = write_notebook(tmp_path / "notebooks/00_good.ipynb", *RECORDING, parameters=PROFILE)
    bad = write_notebook(tmp_path / "notebooks/01_bad.ipynb", "1 / 0", parameters=PROFILE)
    (tmp_path / "README.md").write_text("text\n")
    before = path.read_bytes()
    assert runner.main(["record"]) == 1
    assert path.read_bytes() == before
    assert names(tmp_path) == ["README.md", "build", "notebooks"]

    bad.unlink()
    assert runner.main(["record"]) == 0
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
