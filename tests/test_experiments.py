"""The Wordle experiment, at its smallest: it runs, records, and goes on where it was."""

import json

import numpy as np
import pytest

from experiments import wordle


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("QSFT_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("QSFT_THREADS", "1")
    monkeypatch.delenv("QSFT_COMMAND", raising=False)

    def run(*more):
        arguments = ["--profile", "smoke", "--games", "200", "--output", str(tmp_path / "work")]
        wordle.main([*arguments, *more])
        [path] = (tmp_path / "results").glob("*.json")
        return json.loads(path.read_text())

    return run


def test_it_records_a_row_for_each_method_and_does_not_train_twice(run, monkeypatch):
    result = run("--only", "ILQL", "Q-SFT (ours)")
    rows = {row["method"]: row for row in result["tables"]["wordle_methods"]}
    assert list(rows) == ["Behavior cloning", "ILQL", "Q-SFT (ours), by p", "Q-SFT (ours), by p/pi"]
    games = result["raw"]["seeds"][0]["ILQL"][""]["returns"]
    assert len(games) == 50  # a digit each: the wrong guesses
    assert rows["ILQL"]["score"]["mean"] == pytest.approx(-np.mean([int(game) for game in games]))
    assert "optimum" not in rows and result["headline"]["Optimum"] <= 0

    monkeypatch.setattr(wordle, "train", None)  # finished rows need no training
    assert run("--only", "ILQL", "Q-SFT (ours)")["raw"] == result["raw"]


def test_rows_are_means_over_seeds_paired_by_game():
    def seed(cloned, ours):
        entry = {"options": {}, "tried": [], "success": 1.0}
        return {
            "Behavior cloning": {"": {**entry, "returns": cloned}},
            "Ours": {"ratio": {**entry, "returns": ours}},
        }

    found = [seed([-2, -4, -3], [-1, -3, -2]), seed([-4, -4, -5], [-3, -3, -4])]
    levels = {"Information gain": -1.0}
    cloned, ours = wordle.table(found, levels, data_mean=-4.0)
    assert cloned["score"]["mean"] == pytest.approx(-22 / 6)
    assert ours["over sharpened cloning"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert ours["seeds"] == "-2.00, -3.33"
    assert ours["normalised"] == pytest.approx(50 + 50 * (-16 / 6 + 4) / 3)


def test_words_are_spread_over_the_list():
    words = wordle.word_list(None, 40)
    assert len(set(words)) == 40 and words == sorted(words)
    assert len(wordle.word_list(None, 0)) == 448
