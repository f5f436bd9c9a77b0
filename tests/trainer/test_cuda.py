"""On a GPU: the same numbers as on a CPU, mixed precision, and a study from its data to its table.

Skipped where there is none, as in CI. What was seen where there is one stands in docs/log.md.
"""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from qsft_lite import data, models
from qsft_lite.envs import generate, make
from qsft_lite.loss import Backup
from qsft_lite.study import Study, run
from qsft_lite.study.estimate import estimate
from qsft_lite.study.task import gains_by_bf16
from qsft_lite.tasks.gridworld.study import PROFILES, GridworldTask
from qsft_lite.trainer import q_sft_step
from qsft_lite.trainer.paired_step import paired_step

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

SIZE = {"layers": 2, "width": 32, "heads": 2, "context": 64}


@pytest.fixture(scope="module")
def tokenizer():
    return models.word_tokenizer(make("gridworld").texts)


@pytest.fixture(scope="module")
def batch(tokenizer):
    games = generate("gridworld", 60, 0)
    episodes = data.encode(games, tokenizer, scale=data.RewardScale(0, 1, "step"), gamma=0.9)
    rows = data.pack(episodes, 128)
    return data.collate([rows[i] for i in range(8)])


def network(tokenizer, seed):
    model = models.small_model(tokenizer, **SIZE, seed=seed)
    model.get_output_embeddings().weight.data.mul_(10)  # far from uniform
    return model


def step(tokenizer, batch, form, kind, device, dtype):
    """Loss and gradient of a step, on the CPU in float64."""
    q, target, behavior = (network(tokenizer, seed).to(device, dtype) for seed in range(3))
    batch = {
        name: column.to(device, dtype) if column.is_floating_point() else column.to(device)
        for name, column in batch.items()
    }
    options = {"backup": Backup(kind, 0.05)}
    if form == "paired":
        loss, _ = paired_step(q, target, behavior, batch, **options, prior=0.5)
    else:
        options |= {"dummy": models.dummy_id(tokenizer), "train_behavior": True}
        loss, _ = q_sft_step(q, target, behavior, batch, **options)
    loss.backward()
    gradient = torch.cat([weight.grad.flatten() for weight in q.parameters()])
    return loss.item(), gradient.double().cpu()


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        *(("dummy", kind) for kind in ("max", "support", "behavior", "returns")),
        *(("paired", kind) for kind in ("recorded", "support", "behavior", "returns")),
    ],
)
def test_a_step_is_that_of_the_cpu(tokenizer, batch, form, kind):
    loss, gradient = step(tokenizer, batch, form, kind, "cpu", torch.float64)
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.float32, 1e-3)):
        there, its_gradient = step(tokenizer, batch, form, kind, "cuda", dtype)
        assert there == pytest.approx(loss, rel=tolerance)
        assert (its_gradient - gradient).norm() < tolerance * gradient.norm()


def test_mixed_precision_learns_as_single_precision_does():
    assert gains_by_bf16()
    losses = {}
    for bf16 in (False, True):
        settings = dataclasses.replace(PROFILES["smoke"], games=2_000, bf16=bf16)
        cloned = GridworldTask(settings, 0).clone()
        losses[bf16] = np.mean([line["loss"] for line in cloned.logs if "loss" in line][-5:])
        weights = next(cloned.behavior.parameters())
        assert weights.is_cuda and weights.dtype == torch.float32
    assert losses[True] == pytest.approx(losses[False], rel=0.05)


def test_a_study_runs_and_its_policies_play_the_same_when_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("QSFT_RESULTS", str(tmp_path / "results"))
    study = Study.of("gridworld", "smoke", methods=["ilql", "q_sft"], output=tmp_path)
    assert estimate(study)["memory_mib"] > 0
    result = run(study, quiet=True)
    rows = {row["method"]: row for row in result["tables"]["gridworld_methods"]}
    task, trained = study.of_seed(0), study.trained(0, "q_sft")
    assert next(trained.behavior.parameters()).is_cuda
    found = task.play(task.policy(trained, beta=0.0, greedy=True), test=True)
    on_cpu = dataclasses.replace(
        trained,
        behavior=copy.deepcopy(trained.behavior).cpu(),
        values=copy.deepcopy(trained.values).cpu(),
    )
    again = task.play(task.policy(on_cpu, beta=0.0, greedy=True), test=True)
    assert (
        np.array_equal(found.returns, again.returns)
        and 0 <= rows["Q-SFT (ours)"]["score"]["mean"] <= 1
    )
