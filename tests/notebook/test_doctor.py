"""The doctor: what it says of this machine is true, and its predictions are simple proportions."""

import os
from importlib import metadata

import pytest
import torch

from qsft_lite import results
from qsft_lite.notebook import doctor


def test_predictions_are_in_proportion_to_the_small_step():
    minutes = doctor.predicted_minutes(2 * doctor.REFERENCE_STEP)
    folder = results.project_root() / "data" / "results"
    result = results.load_result(folder / "04_neural_q_sft.laptop.json")
    assert minutes["04_neural_q_sft"] == pytest.approx(2 * result["seconds"] / 60)
    assert all(name[0].isdigit() or name.startswith("template") for name in minutes)
    assert not any("benchmark" in name for name in minutes)


def test_speed_is_work_over_time(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(doctor.time, "perf_counter", lambda: next(clock))
    # Each product takes one tick, a second: 2 * 8^3 operations in 1 s.
    assert doctor.gflops(torch.float32, seconds=0, size=8) == 2 * 8**3 / 1e9


def test_a_training_step_leaves_the_threads_alone():
    before = torch.get_num_threads()
    assert 1e-4 < doctor.training_step(steps=3) < 60
    assert torch.get_num_threads() == before


def test_the_report(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "training_step", lambda: doctor.REFERENCE_STEP / 2)
    monkeypatch.delenv("QSFT_THREADS", raising=False)
    assert doctor.main() == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert metadata.version("torch") in lines["torch"]
    assert f"of {os.cpu_count()} usable" in lines["CPU"]
    assert "0.50 of where times were recorded" in lines["small"]
    assert "GFLOP/s" in lines["float32"]
    assert "GFLOP/s" in lines["bfloat16"]


def test_a_missing_package_is_told_first(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "PACKAGES", ("numpy", "no-such-package"))
    assert doctor.main() == 1
    said = capsys.readouterr().out
    assert "no-such-package" in said
    assert "python tools/set_up.py" in said
