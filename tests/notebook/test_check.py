"""How numbers spread over seeds."""

import json
import math

import nbformat
import pytest
from sample_results import some_results
from test_notebook import PROFILE, names, write_notebook

from qsft_lite.notebook.__main__ import main
from qsft_lite.notebook.check import spread_of

RECORDING = (
    "from qsft_lite import notebook\n"
    "settings = {'smoke': {'n': 1}, 'laptop': {'n': 2}, 'gpu': {'n': 3}}\n"
    "run = notebook.start('00_a', profile=PROFILE, seed=SEED, settings=settings)",
    "assert SEED != 101, 'unlucky'",
    "run.record(headline={'seed': SEED, 'mean': {'mean': 2 * SEED, 'low': 0, 'high': 9}})",
)


def test_check_runs_all_cells_with_every_seed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QSFT_THREADS", "1")
    write_notebook(tmp_path / "00_a.ipynb", *RECORDING, parameters=PROFILE + "\nSEED = 0")
    words = ["check", "00_a.ipynb", "--seeds", "2", "--profile", "smoke", "--write"]
    assert main(words) == 1
    said = capsys.readouterr().out
    cell = "code cell 3 (\"assert SEED != 101, 'unlucky'\"): AssertionError: unlucky"
    assert [line for line in said.splitlines() if "code cell" in line] == [f"  {cell}"]
    assert "not stored in" in said
    assert names(tmp_path) == ["00_a.ipynb", "build"]
    folder = tmp_path / "build" / "check"
    assert names(folder) == ["seed_100", "seed_101", "spread"]
    executed = nbformat.read(folder / "seed_101" / "00_a.failed.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text == "Recorded 00_a.smoke.json\n", "after the failure"

    words[2:] = ["--seeds", "2", "--first-seed", "200", "--profile", "smoke", "--write"]
    assert main(words) == 0
    spread = json.loads((tmp_path / "data" / "spread" / "00_a.smoke.json").read_text())
    assert [(run["seed"], run["threads"]) for run in spread["runs"]] == [(200, 1), (201, 1)]
    assert spread["headline"]["mean"]["mean"] == 401
    assert spread["command"] == (
        "python -m qsft_lite.notebook check 00_a.ipynb --seeds 2 --first-seed 200 --profile smoke"
    )


def test_each_seed_runs_with_all_thread_counts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_notebook(tmp_path / "00_a.ipynb", *RECORDING, parameters=PROFILE + "\nSEED = 0")
    words = ["check", "00_a.ipynb", "--seeds", "1", "--threads", "1", "2", "--profile", "smoke"]
    assert main([*words, "--write"]) == 0
    spread = json.loads((tmp_path / "data" / "spread" / "00_a.smoke.json").read_text())
    assert [(run["seed"], run["threads"]) for run in spread["runs"]] == [(100, 1), (100, 2)]
    assert spread["command"].endswith("--first-seed 100 --profile smoke --threads 1 2")
    folder = tmp_path / "build" / "check"
    assert names(folder) == ["seed_100_threads_1", "seed_100_threads_2", "spread"]


def test_check_needs_a_seed_before_anything_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_notebook(tmp_path / "a.ipynb", *RECORDING, parameters=PROFILE + "\nSEED = 0")
    write_notebook(tmp_path / "b.ipynb", parameters=PROFILE)
    assert main(["check", "a.ipynb", "b.ipynb"]) == 1
    assert "b.ipynb: unknown parameter 'SEED'" in capsys.readouterr().err
    assert names(tmp_path) == ["a.ipynb", "b.ipynb"]


def test_a_spread_by_hand():
    (once,) = spread_of(some_results([1.0, 2.0, 4.0]))["headline"].values()
    # By hand: mean 7/3, squares of the distances add up to 14/3, over n - 1 = 2.
    assert once["mean"] == pytest.approx(7 / 3)
    assert once["deviation"] == pytest.approx(math.sqrt(7 / 3))
    assert (once["least"], once["greatest"], once["seeds"]) == (1, 4, 3)
    (single,) = spread_of(some_results([1.0]))["headline"].values()
    assert single["deviation"] is None
