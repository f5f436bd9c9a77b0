"""The notebook of full-scale runs, at its smallest, for every task."""

import json

import pytest
from places import ROOT
from small_studies import needs_stockfish

from qsft_lite import notebook
from qsft_lite.study import TASKS, has_study

NOTEBOOK = ROOT / "notebooks" / "15_full_scale_runs.ipynb"
CASES = [
    pytest.param(task, marks=needs_stockfish if task == "chess" else ())
    for task in filter(has_study, TASKS)
]


@pytest.mark.slow
@pytest.mark.parametrize("task", CASES)
def test_every_task_runs_reads_and_explores(task, tmp_path, monkeypatch):
    monkeypatch.setenv("QSFT_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("QSFT_FIGURES", str(tmp_path / "figures"))
    parameters = {"TASK": task, "PROFILE": "smoke", "OUTPUT": str(tmp_path / "runs")}
    notebook.run(NOTEBOOK, parameters, tmp_path / "first.ipynb")
    [recorded] = (tmp_path / "results").glob("*.json")
    rows = json.loads(recorded.read_text())["tables"]["full_scale"]
    titles = ["Sharpened cloning", "Q-SFT (ours)", "Monte-Carlo returns"]
    assert [row["method"] for row in rows] == titles
    if task != "wordle":  # one task is enough for what is the same in all
        return
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("policy/*/*")}
    assert len(before) > 5
    notebook.run(NOTEBOOK, parameters, tmp_path / "second.ipynb")  # reads what is finished
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert json.loads(recorded.read_text())["tables"]["full_scale"] == rows
