"""The experiments at their smallest: they run, record, and go on where they were."""

import json

import numpy as np
import pytest

from experiments import study, twenty_questions, wordle

SMALL = {wordle: "200", twenty_questions: "100"}  # recorded games


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("QSFT_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("QSFT_THREADS", "1")
    monkeypatch.delenv("QSFT_COMMAND", raising=False)

    def run(experiment, *more):
        work = str(tmp_path / "work")
        arguments = ["--profile", "smoke", "--games", SMALL[experiment], "--output", work]
        experiment.main([*arguments, *more])
        [path] = (tmp_path / "results").glob("*.json")
        return json.loads(path.read_text())

    return run


@pytest.mark.parametrize("experiment", SMALL)
def test_it_records_a_row_for_each_method_and_does_not_train_twice(run, monkeypatch, experiment):
    result = run(experiment, "--only", "ILQL", "Q-SFT (ours)")
    [shown] = result["tables"].values()
    rows = {row["method"]: row for row in shown}
    assert list(rows) == ["Behavior cloning", "ILQL", "Q-SFT (ours), by p", "Q-SFT (ours), by p/pi"]
    games = [int(game) for game in result["raw"]["seeds"][0]["ILQL"][""]["returns"].split()]
    assert len(games) == experiment.PROFILES["smoke"]["test games"]
    assert set(games) <= set(range(experiment.LOWEST, 1))
    assert rows["ILQL"]["score"]["mean"] == pytest.approx(np.mean(games))
    assert rows["Behavior cloning"]["over sharpened cloning"]["mean"] == 0
    assert experiment.LOWEST < result["headline"]["Optimum"] <= 0

    monkeypatch.setattr(study, "train", None)  # finished rows need no training
    assert run(experiment, "--only", "ILQL", "Q-SFT (ours)")["raw"] == result["raw"]


def test_rows_are_means_over_seeds_paired_by_game():
    def seed(cloned, ours):
        entry = {"options": {}, "tried": [], "success": 1.0}
        return {
            "Behavior cloning": {"": {**entry, "returns": cloned}},
            "Ours": {"ratio": {**entry, "returns": ours}},
        }

    found = [seed([-2, -4, -3], [-1, -3, -2]), seed([-4, -4, -5], [-3, -3, -4])]
    cloned, ours = study.table(found, lowest=-6, data_mean=-4.0, best=-1.0)
    assert cloned["score"]["mean"] == pytest.approx(-22 / 6)
    assert ours["over sharpened cloning"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert ours["seeds"] == "-2.00, -3.33"
    assert ours["normalised"] == pytest.approx(50 + 50 * (-16 / 6 + 4) / 3)


def test_words_are_spread_over_the_list():
    words = wordle.word_list(None, 40)
    assert len(set(words)) == 40 and words == sorted(words)
    assert len(wordle.word_list(None, 0)) == 448


def test_objects_come_from_all_over_the_list():
    objects = twenty_questions.some_objects(20)
    assert len({thing.name for thing in objects}) == 20
    assert len({thing.category for thing in objects}) >= 12
