"""The stage of the paired form: what stands still, what is written down, and what is refused."""

import datasets
import numpy as np
import pytest
import torch
from test_trainer import TOKENIZER, assert_identical, config, model, random_rows, weights

from qsft_lite.models import NewHead
from qsft_lite.trainer import QSFTTrainer
from qsft_lite.trainer.optimizer import layer_matrices

ROWS = random_rows(8)


def trainer_of(folder, network=None, rows=ROWS, behavior=None, **options) -> QSFTTrainer:
    args = config(folder, **{"max_steps": 3, "logging_steps": 1, **options})
    return QSFTTrainer(network or model(), args, rows, None, TOKENIZER, behavior)


@pytest.mark.parametrize("options", [{}, {"values": "head"}, {"backup": "recorded"}])
def test_the_behavior_policy_stands_still(tmp_path, options):
    behavior = model(seed=1)
    before = weights(behavior)
    trainer = trainer_of(tmp_path, behavior=behavior, **options)
    trainer.train()
    stage = trainer.model
    assert stage.behavior is behavior
    assert_identical(weights(behavior), before)
    assert not any(weight.requires_grad for weight in behavior.parameters())
    assert not behavior.training and not stage.target.training and stage.train().q.training
    moved = weights(stage.q)
    start = weights(NewHead.on(model(), seed=42) if "values" in options else model())
    assert any(not torch.equal(moved[name], weight) for name, weight in start.items())


@pytest.mark.parametrize("values", ["logits", "head"])
@pytest.mark.parametrize("backup", ["returns", "random", "recorded"])
def test_a_target_network_is_kept_where_it_is_asked(tmp_path, values, backup):
    trainer = trainer_of(tmp_path, values=values, backup=backup)
    assert (trainer.model.target is None) == (backup != "recorded")
    trainer.train()
    assert isinstance(trainer.model.q, NewHead) == (values == "head")


def test_the_model_is_left_alone_by_a_new_head(tmp_path):
    given = model()
    trainer = trainer_of(tmp_path, given, values="head")
    trainer.train()
    assert_identical(weights(given), weights(model()))
    assert trainer.model.q.output.weight.abs().sum() > 0
    again = trainer_of(tmp_path / "on", trainer.model.q, behavior=model(), values="head")
    assert again.model.q is trainer.model.q  # training goes on from it


# The prior


def test_the_prior_of_the_returns_is_their_mean(tmp_path):
    returns = [r for row in ROWS for r in row["return_to_go"][row["action_mask"]]]
    trainer = trainer_of(tmp_path, prior="returns")
    mean = trainer.model.prior
    assert mean == pytest.approx(np.float32(returns).astype(float).mean(), abs=1e-9)
    assert trainer.model.q.config.q_sft_prior == mean
    trainer.train()
    first = trainer.state.log_history[0]
    assert [first[f"q_{share}"] for share in ("05", "50", "95")] == pytest.approx(
        [mean] * 3, abs=1e-5
    )
    for returned, expected in ((0.0, 0.01), (5.0, 0.99)):  # kept within (0, 1)
        rows = [{**row, "return_to_go": np.full_like(row["reward"], returned)} for row in ROWS]
        assert trainer_of(tmp_path, rows=rows, prior="returns").model.prior == expected


@pytest.mark.parametrize("values", ["logits", "head"])
def test_the_prior_is_kept_with_the_network(tmp_path, values):
    trainer = trainer_of(tmp_path, values=values, prior=0.3)
    trainer.train()
    trainer.model.q.save_pretrained(tmp_path / "saved")
    loaded = (NewHead if values == "head" else type(model())).from_pretrained(tmp_path / "saved")
    assert loaded.config.q_sft_prior == 0.3
    assert_identical(weights(loaded), weights(trainer.model.q))


def test_of_a_stream_the_prior_is_a_number(tmp_path):
    stream = datasets.IterableDataset.from_generator(lambda: iter(ROWS)).with_format("numpy")
    with pytest.raises(ValueError, match='prior="returns" needs rows with a length, not a stream'):
        trainer_of(tmp_path, rows=stream, prior="returns")
    trainer = trainer_of(tmp_path, rows=stream, prior=0.4, max_steps=2)
    trainer.train()
    assert trainer.model.q.config.q_sft_prior == 0.4


# Precision and optimizers


def test_mixed_precision_begins_at_the_prior(tmp_path):
    """Of logits in bfloat16 the quantiles would lie up to .05 apart."""
    trainer = trainer_of(tmp_path, bf16=True, prior=0.3, max_steps=6, learning_rate=1e-2)
    trainer.train()
    lines = [line for line in trainer.state.log_history if "q_50" in line]
    first = [lines[0][f"q_{share}"] for share in ("05", "50", "95")]
    assert first == pytest.approx([0.3] * 3, abs=2e-3)
    assert abs(lines[-1]["q_95"] - lines[-1]["q_05"]) > 0.01  # and it trains
    assert all(weight.dtype == torch.float32 for weight in trainer.model.parameters())


def test_a_new_head_on_a_network_in_half_precision(tmp_path):
    """Its own layers are in single precision, whatever is under them."""
    trainer = trainer_of(tmp_path, model().bfloat16(), values="head", backup="returns")
    trainer.train()
    assert trainer.model.q.output.weight.dtype == torch.float32
    assert trainer.model.q.output.weight.abs().sum() > 0
    found = trainer.model.q(input_ids=torch.tensor([[1, 3, 4]])).logits
    assert found.dtype == torch.float32 and found.isfinite().all()


def test_muon_is_for_the_layers_under_a_new_head(tmp_path):
    trainer = trainer_of(tmp_path, values="head", muon=True, learning_rate=1e-3)
    q = trainer.model.q
    before = weights(q)
    names = {id(weight): name for name, weight in q.named_parameters()}
    chosen = [names[id(weight)] for weight in layer_matrices(q)]
    assert len(chosen) == 14 and all(".layers." in name for name in chosen)
    trainer.train()
    after = weights(q)
    for name in (*chosen, "output.weight"):
        moved = (after[name] - before[name]).square().mean().sqrt()
        assert 1e-4 < moved < 4e-3, name
