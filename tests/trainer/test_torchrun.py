"""Two processes started by torchrun train as one does: same steps, same held-out loss."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import small_pictures
import torch
from places import ROOT
from small_pictures import vision_model, write_episodes
from test_trainer import TOKENIZER, config, model, random_rows

from qsft_lite.data import RewardScale, encode, load_trajectories, pack
from qsft_lite.trainer import train_q_sft

FORMS = {
    "paired": {"backup": "recorded"},  # of 20 rows, met more than once: kept, each half of them
    "head": {"values": "head", "backup": "support"},
    "dummy": {"leftover": "dummy", "backup": "support"},
    "pictures": {"backup": "behavior"},  # rows have as many pictures as turns
}


def train_all(folder: Path, rows_per_process: int) -> None:
    """Every form, one after the other."""
    for name, options in FORMS.items():
        train(folder / name, rows_per_process, **options)


def train(folder: Path, rows_per_process: int, **form) -> None:
    """Both stages; the weights are written by the process that may."""
    rows = random_rows(27)  # of different numbers of action tokens
    network, tokenizer = model(), TOKENIZER
    if folder.name == "pictures":
        episodes = load_trajectories(write_episodes(folder / f"data-{os.getpid()}", 60, turns=3))
        encoded = encode(
            episodes, small_pictures.TOKENIZER, scale=RewardScale(0.0, 1.0), memory="turn",
            image_tokens=small_pictures.TOKENS,
        )  # fmt: skip
        packed = pack(encoded, 64)
        rows = [packed[i] for i in range(27)]
        network, tokenizer = vision_model(seed=2), small_pictures.TOKENIZER
    options = {
        "per_device_train_batch_size": rows_per_process,
        "max_steps": 6,
        "optim": "sgd",
        "learning_rate": 0.3,
        "logging_steps": 2,
        "save_strategy": "steps",
        "save_steps": 3,
    }
    trained = train_q_sft(
        network,
        tokenizer,
        rows[:20],
        rows[20:],
        config(folder / "one", "behavior", eval_strategy="steps", eval_steps=3, **options),
        config(folder / "two", support=0.03, target_rate=0.3, **form, **options),
    )
    if int(os.environ.get("RANK", 0)) == 0:
        safetensors.torch.save_model(trained.q_model, str(folder / "q.safetensors"))
        held_out = [line["eval_loss"] for line in trained.logs["behavior"] if "eval_loss" in line]
        losses = [line["loss"] for line in trained.logs["values"] if "loss" in line]
        (folder / "log.json").write_text(json.dumps({"eval_loss": held_out, "loss": losses}))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_together(script: str, folder: Path) -> None:
    """The script with the folder, in two processes started by torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += ["--master-addr=127.0.0.1", f"--master-port={free_port()}", script, str(folder)]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    train_all(tmp_path / "alone", rows_per_process=4)
    run_together(__file__, tmp_path / "together")
    for form in FORMS:
        alone, together = (
            safetensors.torch.load_file(tmp_path / name / form / "q.safetensors")
            for name in ("alone", "together")
        )
        assert alone.keys() == together.keys()
        for name in alone:
            torch.testing.assert_close(together[name], alone[name], rtol=0, atol=2e-5)
        logs = [
            json.loads((tmp_path / name / form / "log.json").read_text())
            for name in ("alone", "together")
        ]
        assert len(logs[0]["eval_loss"]) == 2 and len(logs[0]["loss"]) == 3
        assert logs[1]["eval_loss"] == pytest.approx(logs[0]["eval_loss"], abs=1e-4)
        assert logs[1]["loss"] == pytest.approx(logs[0]["loss"], abs=1e-4)


if __name__ == "__main__":
    train_all(Path(sys.argv[1]), rows_per_process=2)
