"""What a study will cost, beside what it takes."""

import pytest
from small_studies import LESS

from qsft_lite.study import Study, module_of
from qsft_lite.study.__main__ import main
from qsft_lite.study.estimate import estimate
from qsft_lite.study.progress import read_log
from qsft_lite.study.task import Task


@pytest.mark.parametrize("task", ["gridworld", "endgames"])
def test_steps_are_those_that_the_training_takes(small, task):
    methods = ["filtered_bc", "return_conditioned", "ilql", "q_sft", "q_sft_distilled"]
    study, _ = small(task, methods)
    cost = estimate(study)
    assert len(cost["rows"]) == 6
    for row, key in zip(cost["rows"], ["bc", *methods], strict=True):
        taken = read_log(study.row_folder(0, key) / "log.jsonl")[-1]["steps"]
        assert row["steps"] == pytest.approx(taken, rel=0.1, abs=1), key
        tokens = study.settings.batch_rows * study.settings.row_tokens
        assert row["tokens"] == row["steps"] * tokens and row["seconds a step"] > 0
    assert cost["hours"] == pytest.approx(
        sum(row["hours"] for row in cost["rows"]) + cost["hours of play"]
    )
    weights = study.of_seed(0).new_model().num_parameters()
    assert cost["weights"] == weights and cost["memory_mib"] > 0


def test_an_estimate_is_printed_and_nothing_is_kept(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("QSFT_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("QSFT_COMMAND", "")  # which the command line sets for good
    arguments = ["gridworld", "--profile", "smoke", "--estimate", "--methods", "ilql"]
    assert main([*arguments, "--seeds", "0", "1", "--output", str(tmp_path / "runs")]) == 0
    said = capsys.readouterr().out
    assert "Sharpened cloning: " in said and "ILQL: " in said and "steps" in said
    assert "weights" in said and "in all about" in said
    assert list(tmp_path.iterdir()) == []


def test_more_games_are_more_steps(tmp_path):
    changes = LESS["gridworld"]
    costs = [
        estimate(
            Study.of(
                "gridworld",
                "smoke",
                methods=["mc_returns"],
                changes={**changes, "games": games},
                output=tmp_path,
            )
        )["rows"][1]
        for games in (1_000, 4_000)
    ]
    assert costs[1]["steps"] == pytest.approx(4 * costs[0]["steps"], rel=0.1)
    smoke = module_of("gridworld").PROFILES["smoke"]
    assert costs[0]["steps"] > 1_000 * 0.1 / smoke.batch_rows


@pytest.mark.parametrize("task", ["gridworld", "endgames", "twenty_questions"])
def test_filtered_cloning_takes_as_many_steps_as_what_learns_from_all_games(task, tmp_path):
    changes = {"games": 3_000, "value_games": 0, "batch_rows": 8}
    study = Study.of(
        task, "smoke", methods=["filtered_bc", "ilql"], changes=changes, output=tmp_path
    )
    _, filtered, other = (row["steps"] for row in estimate(study)["rows"])
    assert filtered == pytest.approx(other, rel=0.1)


def test_steps_on_returns_and_those_with_a_backup_are_timed_both(tmp_path, monkeypatch):
    tried = []
    train = Task.train

    def noted(self, method, *given, **options):
        tried.append((method, options.get("returns_first")))
        return train(self, method, *given, **options)

    monkeypatch.setattr(Task, "train", noted)
    study = Study.of("gridworld", "smoke", methods=["q_sft", "mc_returns"], output=tmp_path)
    rows = estimate(study)["rows"]
    assert tried == [("bc", None), ("q_sft", None), ("q_sft", 0.0), ("mc_returns", None)]
    assert all(row["seconds a step"] > 0 for row in rows)
