"""The benchmarks of play, and of what pretrained models hold in memory, run and record."""

import json

import pytest

from benchmarks import decode, pretrained

pytest.importorskip("peft")


def test_benchmark_runs_and_records(tmp_path, monkeypatch):
    monkeypatch.setenv("QSFT_RESULTS", str(tmp_path))
    decode.main(["--profile", "smoke"])
    result = json.loads((tmp_path / "benchmark_decode.smoke.json").read_text())
    rows = result["tables"]["benchmark_decode"]
    assert [row["policy"] for row in rows] == ["two models", "adapters of one base", "distilled"]
    assert all(row["tokens/s"] > 0 for row in rows)
    assert all(len(times) == 3 for times in result["raw"]["1 layers, width 16"].values())


def test_memory_of_pretrained_models_counts_each_tensor_once(tmp_path, monkeypatch):
    monkeypatch.setenv("QSFT_RESULTS", str(tmp_path))
    pretrained.main(["--profile", "smoke"])
    result = json.loads((tmp_path / "benchmark_pretrained.smoke.json").read_text())
    rows = {row["training"]: row for row in result["tables"]["benchmark_pretrained"]}
    held = {name: row["weights / one model"] for name, row in rows.items()}
    assert held["all weights"] == held["all weights, checkpointing"] == 3
    assert 1 < held["LoRA"] < 1.1 and held["LoRA, bfloat16"] < 0.55
    passes = {name: row["a pass allocates (MB)"] for name, row in rows.items()}
    assert passes["LoRA, checkpointing"] < passes["LoRA"] < passes["all weights"]
