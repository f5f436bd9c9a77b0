"""What one sees of a training: its log, TensorBoard, and ``watch`` in each phase of it."""

import json
import time
from types import SimpleNamespace

import pytest
from small_studies import LESS

from qsft_lite.study.__main__ import main
from qsft_lite.study.progress import Log, curves, read_log, states


def line(step, steps=100, ago=0.0, **logs):
    return json.dumps({"step": step, "steps": steps, "time": time.time() - ago, **logs}) + "\n"


def row(folder, seed, key, log="", files=()):
    place = folder / f"seed{seed}" / key
    place.mkdir(parents=True)
    (place / "log.jsonl").write_text(log)
    for name in files:
        (place / name).write_text("{}")
    return place


def test_watch_says_each_phase(tmp_path):
    assert list(states(tmp_path / "none")) == []
    row(tmp_path, 0, "bc", line(100), ["trained.json", "row.json"])
    row(tmp_path, 0, "cql", line(100), ["trained.json"])
    row(tmp_path, 0, "ilql", line(0, ago=60) + line(20, loss=0.5, target_mean=0.25, norm=3.0))
    row(tmp_path, 1, "bc", line(0))
    row(tmp_path, 1, "mc_returns")  # nothing yet
    found = [" ".join(said.split()) for said in states(tmp_path)]
    assert found == [
        "seed0 bc finished",
        "seed0 cql trained, and playing",
        "seed0 ilql step 20 of 100, loss 0.5, target_mean 0.25, 4 min left",
        "seed1 bc step 0 of 100",
    ]


def test_a_clone_that_writes_no_log_is_seen(tmp_path):
    (row(tmp_path, 0, "bc", "", ["row.json"]) / "log.jsonl").unlink()
    assert [said.split() for said in states(tmp_path)] == [["seed0", "bc", "finished"]]


def test_a_pause_is_no_work_and_silence_is_said(tmp_path):
    log = line(0, ago=99_999) + line(50, ago=99_949, loss=1.0)  # a second a step, then a pause
    row(tmp_path, 0, "bc", log + line(50, ago=1_000) + line(60, ago=980, loss=1.0))
    [said] = states(tmp_path)
    assert said.endswith("step 60 of 100, loss 1, 80 s left (silent for 16 min)")


def test_a_half_written_line_is_left_out(tmp_path):
    whole = line(0, ago=10) + line(20, loss=2.0)
    place = row(tmp_path, 0, "bc", whole + line(40, loss=1.0)[:-9])
    assert [one["step"] for one in read_log(place / "log.jsonl")] == [0, 20]
    assert "step 20 of 100, loss 2" in next(states(tmp_path))
    assert read_log(place / "none") == []


def test_a_log_takes_back_what_came_after_the_checkpoint(tmp_path):
    log, state = Log(tmp_path / "a" / "log.jsonl"), SimpleNamespace(global_step=0, max_steps=9)
    log.on_train_begin(None, state, None)
    for step in (2, 4, 6):
        state.global_step = step
        log.on_log(None, state, None, {"loss": 1.0 / step})
    log.path.write_text(log.path.read_text()[:-5])  # cut off while it was written
    state.global_step = 3
    log.on_train_begin(None, state, None)
    state.global_step = 4
    log.on_log(None, state, None, {"loss": 0.125})
    found = read_log(log.path)
    assert [(one["step"], one.get("loss")) for one in found] == [
        (0, None),
        (2, 0.5),
        (3, None),
        (4, 0.125),
    ]


def test_a_training_is_logged_in_files_and_in_tensorboard(small, capsys):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    study, _ = small("gridworld", ["q_sft"])
    losses = {}
    for key in ("bc", "q_sft"):
        folder = study.row_folder(0, key)
        logged = [one for one in read_log(folder / "log.jsonl") if "loss" in one]
        losses[key] = [one["loss"] for one in logged]
        events = accumulator.EventAccumulator(str(folder / "tensorboard"))
        events.Reload()
        seen = events.Scalars("train/loss")
        assert [event.step for event in seen] == [one["step"] for one in logged]
        assert [event.value for event in seen] == pytest.approx(losses[key])
        assert not (folder / "training").exists()  # finished trainings leave no checkpoints
    table = curves(study.folder)
    kept = table[table.method == "q_sft"].loss.dropna()
    assert list(kept) == losses["q_sft"] and set(table.seed) == {0}

    capsys.readouterr()
    changes = [f"{name}={value}" for name, value in LESS["gridworld"].items()]
    arguments = ["watch", "gridworld", "--profile", "smoke", "--once", "--set", *changes]
    assert main([*arguments, "--output", str(study.folder.parent)]) == 0
    assert capsys.readouterr().out.count("finished") == 2
    assert main(["watch", "gridworld", "--once", "--output", str(study.folder.parent)]) == 0
    assert "nothing has begun" in capsys.readouterr().out
