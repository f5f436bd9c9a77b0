"""Runs held against the committed results, by how these spread over seeds."""

import json
import math

import pytest
from sample_results import a_result, some_results

from qsft_lite import results
from qsft_lite.notebook.check import spread_of
from qsft_lite.results import compare
from qsft_lite.results.__main__ import main


def test_the_interval_is_student_s():
    (row,) = spread_of(some_results([1.0, 2.0, 3.0, 4.0, 5.0]))["headline"].values()
    # From a table: t of 4 degrees of freedom, .9995, is 8.610. s = sqrt(2.5), n = 5.
    reach = 8.610 * math.sqrt(2.5) * math.sqrt(1.2)
    assert compare.interval(row) == pytest.approx((3 - reach, 3 + reach), rel=1e-4)


@pytest.fixture
def data(tmp_path):
    """Committed results of two notebooks, and a spread of one."""
    a_result(tmp_path, "00_a", settings={"n": 2}, headline={"exact": 0.5, "score": 3.1})
    a_result(tmp_path, "01_b", headline={"score": {"mean": 1.0, "low": 0.0, "high": 2.0}})
    rows = spread_of(some_results([1.0, 2.0, 3.0, 4.0, 5.0]))
    exact = spread_of(some_results([0.5] * 5))["headline"]["score"]
    rows["headline"] = {"score": rows["headline"]["score"], "exact": exact}
    folder = tmp_path / "data" / "spread"
    folder.mkdir()
    (folder / "00_a.laptop.json").write_text(json.dumps(rows))
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("headline", "status", "told"),
    [
        ({"exact": 0.5, "score": 3.1}, 0, "as expected on this machine (2 the same, 0 within"),
        ({"exact": 0.500001, "score": 3.100001}, 0, "(2 the same, 0 within the spread)"),
        ({"exact": 0.5, "score": 17.0}, 0, "(1 the same, 1 within the spread)"),
        ({"exact": 0.5, "score": 18.2}, 1, "score: 18.2 here, 3.1 committed, expected -11.9"),
        ({"exact": 0.5001, "score": 3.1}, 1, "exact: 0.5001 here, 0.5 committed, expected 0.5 to"),
        ({"score": 3.1}, 1, "exact: not here"),
        ({"exact": 0.5, "score": 3.1, "new": 1.0}, 1, "new: not committed"),
    ],
)
def test_numbers_are_judged_by_their_spread(tmp_path, data, capsys, headline, status, told):
    a_result(tmp_path / "here", "00_a", settings={"n": 2}, headline=headline)
    assert compare.compare(tmp_path / "here" / "data" / "results", data) == status
    assert told in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seed": 7}, "cannot be compared: seed 7 here, 0 committed"),
        ({"settings": {"n": 3}}, "cannot be compared: settings {'n': 3} here, {'n': 2} committed"),
        ({"profile": "smoke"}, "cannot be compared: nothing is committed at the profile smoke"),
        (
            {"command": "python -m qsft_lite.notebook run a.ipynb -p SEED 0 -p GAMMA .9"},
            "cannot be compared: parameters {'GAMMA': '.9'} here, {} committed",
        ),
    ],
)
def test_other_runs_are_not_compared(tmp_path, data, capsys, changes, told):
    headline = {"exact": 0.5, "score": 3.1}
    a_result(tmp_path / "here", "00_a", **{"settings": {"n": 2}, "headline": headline} | changes)
    assert compare.compare(tmp_path / "here" / "data" / "results", data) == 1, "nothing compared"
    assert told in capsys.readouterr().out


def test_without_a_spread_a_number_is_told_and_not_judged(tmp_path, data, capsys, monkeypatch):
    a_result(tmp_path / "here", "01_b", headline={"score": 1.5}, data_hash="other")
    monkeypatch.setattr(compare, "project_root", lambda: tmp_path)
    assert main(["compare", str(tmp_path / "here" / "data" / "results")]) == 0
    said = capsys.readouterr().out
    assert "score: 1.5 here, 1 committed, no spread yet" in said
    assert "its data are others" in said
    assert said.endswith("Nothing differs from what is known; without a spread, not judged: 1.\n")


def test_committed_spreads_are_of_the_committed_settings():
    folder = results.project_root() / "data"
    for path in (folder / "spread").glob("*.json"):
        committed = results.load_result(folder / "results" / path.name)
        rows = compare._committed_spread(folder, committed)
        # Of other settings there would be none. A number that is newer has no spread yet, and is
        # told as such; a number that is gone must not be in it.
        assert rows and set(rows) <= set(committed["headline"]), path.name
        assert all(row["seeds"] > 1 for row in rows.values()), path.name


def test_a_damaged_spread_is_named(tmp_path, data, capsys, monkeypatch):
    monkeypatch.setattr(compare, "project_root", lambda: tmp_path)
    (data / "spread" / "00_a.laptop.json").write_text("[]")
    a_result(tmp_path / "here", "00_a", settings={"n": 2}, headline={"exact": 0.5, "score": 9.0})
    assert main(["compare", str(tmp_path / "here" / "data" / "results")]) == 1
    assert "00_a.laptop.json: not a spread" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "nowhere")]) == 1
    assert "nothing to compare" in capsys.readouterr().out
