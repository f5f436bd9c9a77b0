"""The benchmark of training steps runs and records: in a process of its own, for TRL is large."""

import json
import os
import subprocess
import sys

from places import ROOT


def test_benchmark_runs_and_records(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.step", "--profile", "smoke"],
        cwd=ROOT,
        env={**os.environ, "QSFT_RESULTS": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((tmp_path / "benchmark_step.smoke.json").read_text())
    rows = result["tables"]["benchmark_step"]
    assert any(row["ratio"].startswith("FLOPs") for row in rows)
    assert all(row["ratio"] in done.stdout for row in rows)

    found = {(row["ratio"], row["vocabulary"]): row["median [95 % interval]"] for row in rows}
    for vocabulary in (64, 300, 500):  # what is not run is not paid for

        def all_of(what, *steps, vocabulary=vocabulary):
            return [found[f"{what}: {step} / fine-tuning", vocabulary] for step in steps]

        flops = all_of("FLOPs", "paired, returns", "paired, cached", "paired, live", "one dummy")
        assert flops == sorted(set(flops))
        assert flops[0] < 1  # one network is run, and no head
        (recorded,) = all_of("FLOPs", "paired, recorded")
        assert flops[1] < recorded < flops[2]  # three networks, and single logits of all
        memory = all_of("memory", "paired, returns", "paired, recorded", "one dummy")
        assert memory == sorted(memory)
