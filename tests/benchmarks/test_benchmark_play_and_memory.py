"""The benchmarks of play, of training, and of what pretrained models hold, run and record."""

import json

import pytest

from benchmarks import decode, pretrained, training

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


def test_tokens_a_second_of_every_size_and_precision(tmp_path, monkeypatch):
    monkeypatch.setenv("QSFT_RESULTS", str(tmp_path))
    training.main(["--profile", "smoke"])
    result = json.loads((tmp_path / "benchmark_training.smoke.json").read_text())
    rows = result["tables"]["benchmark_training"]
    assert [row["stage"] for row in rows] == ["one", "two"] * 2
    assert all(row["tokens/s before"] > 0 and row["now"] > 0 for row in rows)
    precisions = result["tables"]["benchmark_training_precision"]
    assert all(row["tokens/s in float32"] > 0 for row in precisions)
    assert len(result["raw"]["small"]["long rows, stage two"]["seconds"]["before"]) == 3


def test_the_games_of_a_batch_are_whole():
    size = {"game": 5, "row": 16, "rows": 2}
    batch = training.random_batch(size, 40)
    assert batch["segment_ids"][0].tolist() == [1] * 5 + [2] * 5 + [3] * 5 + [0]
    assert batch["next_action"][1].tolist()[:6] == [-1, 3, -1, -1, -1, -1]
    assert batch["action_mask"].sum() == 2 * 3 * 2 and not batch["action_mask"][:, -1].any()
