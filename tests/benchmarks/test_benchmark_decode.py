"""The benchmark of play runs and records, adapters of one base and a distilled policy among it."""

import json

import pytest

from benchmarks import decode

pytest.importorskip("peft")


def test_benchmark_runs_and_records(tmp_path, monkeypatch):
    monkeypatch.setenv("QSFT_RESULTS", str(tmp_path))
    decode.main(["--profile", "smoke"])
    result = json.loads((tmp_path / "benchmark_decode.smoke.json").read_text())
    rows = result["tables"]["benchmark_decode"]
    assert [row["policy"] for row in rows] == ["two models", "adapters of one base", "distilled"]
    assert all(row["tokens/s"] > 0 for row in rows)
    assert all(len(times) == 3 for times in result["raw"]["1 layers, width 16"].values())
