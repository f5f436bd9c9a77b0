"""The experiment of Twenty Questions, at its smallest: it runs, records, and does not run twice."""

import json

import numpy as np
import pytest

from experiments import twenty_questions, wordle


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("QSFT_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("QSFT_THREADS", "1")
    monkeypatch.delenv("QSFT_COMMAND", raising=False)

    def run(*more):
        arguments = ["--profile", "smoke", "--games", "100", "--output", str(tmp_path / "work")]
        twenty_questions.main([*arguments, *more])
        [path] = (tmp_path / "results").glob("*.json")
        return json.loads(path.read_text())

    return run


def test_it_records_a_row_for_each_method_and_does_not_train_twice(run, monkeypatch):
    result = run("--only", "ILQL", "Q-SFT (ours)")
    rows = {row["method"]: row for row in result["tables"]["twenty_questions_methods"]}
    assert list(rows) == ["Behavior cloning", "ILQL", "Q-SFT (ours), by p", "Q-SFT (ours), by p/pi"]
    games = [int(game) for game in result["raw"]["seeds"][0]["ILQL"][""]["returns"].split()]
    assert len(games) == 20 and set(games) <= set(range(-20, 1))
    assert rows["ILQL"]["score"]["mean"] == pytest.approx(np.mean(games))
    assert rows["Behavior cloning"]["over sharpened cloning"]["mean"] == 0
    assert result["headline"]["Optimum"] >= result["headline"]["The data's player, careful"] - 1

    monkeypatch.setattr(wordle, "train", None)  # finished rows need no training
    assert run("--only", "ILQL", "Q-SFT (ours)")["raw"] == result["raw"]


def test_rows_are_means_over_seeds_paired_by_game():
    def seed(cloned, ours):
        entry = {"options": {}, "tried": [], "success": 1.0}
        return {
            "Behavior cloning": {"": {**entry, "returns": cloned}},
            "Ours": {"ratio": {**entry, "returns": ours}},
        }

    found = [seed([-12, -4, -3], [-11, -3, -2]), seed([-4, -14, -5], [-3, -13, -4])]
    _, ours = wordle.table(found, {"Information gain": -4.0}, -10.0, twenty_questions.LOWEST)
    assert ours["over sharpened cloning"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert ours["seeds"] == "-5.33, -6.67"
    assert ours["normalised"] == pytest.approx(50 + 50 * (-6 + 10) / 6)


def test_objects_come_from_all_over_the_list():
    objects = twenty_questions.some_objects(20)
    assert len({thing.name for thing in objects}) == 20
    assert len({thing.category for thing in objects}) >= 12
