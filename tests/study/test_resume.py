"""Studies that are killed within a training, and studies of several processes."""

import json
import signal
import time

import pytest
import safetensors.torch
import torch
from small_studies import LESS, command

from qsft_lite.study import Study
from qsft_lite.study.progress import read_log
from qsft_lite.trainer.runs import last_checkpoint

SIZE = {"games": 144, "checkpoint_steps": 2, "batch_rows": 24, "validation_games": 4}
SIZE |= {"test_games": 10, "behavior_epochs": 2.0, "value_epochs": 3.0}
# So many walks are 72 rows: three whole batches, of which two processes repeat none.
SETTINGS = [f"{name}={value}" for name, value in SIZE.items()]


def arguments(folder, method):
    found = ["gridworld", "--profile", "smoke", "--methods", method, "--output", folder]
    return [*found, "--set", *SETTINGS]


def started(tmp_path, name, method, *further, **options):
    return command(
        *arguments(tmp_path / name, method),
        *further,
        QSFT_RESULTS=tmp_path / name / "results",
        **options,
    )


def folder_of(tmp_path, name, method):
    study = Study.of(
        "gridworld", "smoke", methods=[method], changes=SETTINGS, output=tmp_path / name
    )
    return study.row_folder(0, method)


def ended(process):
    said = process.communicate(timeout=600)
    assert process.returncode == 0, said[1][-3000:]


def weights_of(folder):
    paths = sorted((folder / "policy").glob("*/*.safetensors"))
    assert len(paths) == 2
    return [safetensors.torch.load_file(path) for path in paths]


@pytest.mark.slow
def test_a_study_that_is_killed_goes_on_to_the_same_end(tmp_path):
    unbroken = started(tmp_path, "unbroken", "q_sft")
    killed, folder = started(tmp_path, "killed", "q_sft"), folder_of(tmp_path, "killed", "q_sft")
    while killed.poll() is None and not any(map(last_checkpoint, folder.glob("training/*"))):
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL and not (folder / "trained.json").exists()
    before = read_log(folder / "log.jsonl")
    assert (folder.parent / "bc" / "row.json").exists()
    cloned = (folder.parent / "bc" / "row.json").stat().st_mtime_ns

    ended(started(tmp_path, "killed", "q_sft"))
    ended(unbroken)
    assert (folder.parent / "bc" / "row.json").stat().st_mtime_ns == cloned
    whole = folder_of(tmp_path, "unbroken", "q_sft")
    for ours, theirs in zip(weights_of(folder), weights_of(whole), strict=True):
        assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())
    rows = [json.loads((place / "row.json").read_text()) for place in (folder, whole)]
    for one in rows:
        del one["seconds"]
    assert rows[0] == rows[1]
    log = read_log(folder / "log.jsonl")
    starts = [line["step"] for line in log if line.keys() == {"step", "steps", "time"}]
    assert len(starts) == 2 and starts[0] == 0 < starts[1]  # it went on from a checkpoint
    steps, expected = (
        [line["step"] for line in read_log(place / "log.jsonl") if "loss" in line]
        for place in (folder, whole)
    )
    assert steps == expected == sorted(set(steps)) and len(steps) > 5
    assert before[0] == log[0]


@pytest.mark.slow
@pytest.mark.parametrize("further", [[], ["--fully-shard"]])
def test_two_processes_train_as_one_and_the_first_one_writes(further, tmp_path):
    alone = started(tmp_path, "alone", "mc_returns")
    ended(alone)
    ended(started(tmp_path, "together", "mc_returns", *further, processes=2))
    one, two = (folder_of(tmp_path, name, "mc_returns") for name in ("alone", "together"))
    for key in ("bc", "mc_returns"):
        log = [line for line in read_log(two.parent / key / "log.jsonl") if "loss" in line]
        steps = [line["step"] for line in log]
        assert steps == sorted(set(steps)) and len(steps) > 5
        expected = [line for line in read_log(one.parent / key / "log.jsonl") if "loss" in line]
        assert steps == [line["step"] for line in expected]
        losses = [line["loss"] for line in expected]
        assert [line["loss"] for line in log] == pytest.approx(losses, abs=1e-4)
        assert len(list((two.parent / key / "tensorboard").iterdir())) <= 1
    assert len(list((tmp_path / "together").rglob("row.json"))) == 2
    assert len(list((tmp_path / "together" / "results").iterdir())) == 1
    for ours, theirs in zip(weights_of(two), weights_of(one), strict=True):
        for name, weight in theirs.items():
            torch.testing.assert_close(ours[name], weight, rtol=0, atol=3e-4)


@pytest.mark.slow
def test_two_processes_estimate_and_keep_nothing(tmp_path):
    process = command(
        *["gridworld", "--profile", "smoke", "--methods", "ilql", "--estimate"],
        *["--output", tmp_path / "runs", "--set", f"games={LESS['gridworld']['games']}"],
        processes=2,
    )
    said, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-3000:]
    assert said.count("An estimate") == 1 and not list(tmp_path.iterdir())
