"""What the frozen behavior policy says of rows is read once, and changes nothing."""

import datasets
import numpy as np
import pytest
import torch
from test_trainer import TOKENIZER, config, model, random_rows, weights
from torch import nn

from qsft_lite.data import collate
from qsft_lite.loss import Backup
from qsft_lite.trainer import QSFTTrainer, behavior_cache, stage_trainer
from qsft_lite.trainer.behavior_cache import CachedRows, cache_rows, padded_support
from qsft_lite.trainer.paired_step import behavior_columns

ROWS = random_rows(14, seed=7)
KINDS = ("returns", "recorded", "behavior", "support", "policy", "max", "random")


def sharp():
    """A model that tells its actions apart."""
    made = model()
    with torch.no_grad():
        made.lm_head.weight *= 20
    return made


def trained(folder, **options) -> tuple[QSFTTrainer, torch.Tensor]:
    """A run of three passes, from its last checkpoint if there is one, and its last weights."""
    options = {"max_steps": 9, "optim": "sgd", "learning_rate": 0.3, "support": 0.03} | options
    args = config(folder, target_rate=0.2, beta=3.0, logging_steps=3, **options)
    trainer = QSFTTrainer(sharp(), args, ROWS[:12], ROWS[12:], TOKENIZER)
    trainer.train(resume_from_checkpoint=True)
    return trainer, nn.utils.parameters_to_vector(trainer.model.q.parameters()).detach()


@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_are_the_same_with_and_without(tmp_path, kind):
    """Up to float32: a logit of another batch differs in its last bits, and 9 steps add up."""
    values = "head" if kind == "recorded" else "logits"
    found = [
        trained(tmp_path / name, backup=kind, values=values, cache_behavior=cached)
        for name, cached in (("with", True), ("without", False))
    ]
    (one, cached), (other, plain) = found
    torch.testing.assert_close(cached, plain, rtol=0, atol=2e-5)
    start = nn.utils.parameters_to_vector(sharp().parameters())
    assert values == "head" or (cached - start).norm() > 1000 * (cached - plain).norm()
    for line, expected in zip(one.state.log_history, other.state.log_history, strict=True):
        for name in {"loss", "target_mean", "q_50"} & {*expected}:
            assert line[name] == pytest.approx(expected[name], abs=1e-4)
    torch.manual_seed(0)  # random targets are drawn in evaluations, too
    losses = [one.evaluate()["eval_loss"]]
    torch.manual_seed(0)
    losses.append(other.evaluate()["eval_loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_a_logit_in_double_precision_is_kept_in_single(tmp_path):
    behavior = model().double()
    kept = behavior_columns(behavior, collate(ROWS[:3]), Backup("recorded"))["behavior_logit"]
    assert kept.dtype == torch.float32
    for row, found in zip(ROWS[:3], kept, strict=True):
        for segment in (1, 2):
            (inside,) = np.nonzero(row["segment_ids"] == segment)
            ids = torch.tensor(row["input_ids"][inside])
            logits = behavior(input_ids=ids[None]).logits[0]
            for i in np.flatnonzero(row["action_mask"][inside]):
                assert found[inside[i]] == pytest.approx(float(logits[i - 1, ids[i]]), abs=1e-7)
        assert (found[~torch.tensor(row["action_mask"])] == 0).all()


def test_rows_in_any_order_bring_their_own_columns():
    behavior = model(seed=1)
    backup = Backup("support", 0.04)

    def read(batch):
        return behavior_columns(behavior, batch, backup)

    cached = cache_rows(ROWS, read, batch=5)
    assert isinstance(cached, CachedRows) and len(cached) == len(ROWS)
    for order in ([2, 7, 1], [13], [0, 13, 5, 5]):
        there = collate([cached[i] for i in order])
        direct = collate([ROWS[i] for i in order])
        direct |= read(direct)
        assert there.keys() == direct.keys()
        for name, column in direct.items():
            torch.testing.assert_close(there[name], column, rtol=0, atol=1e-5)
        ids, logits, log_pi = padded_support(there)
        assert len(ids) == (there["next_action"] >= 0).sum()
        inside = log_pi > -torch.inf
        assert inside[:, 0].all() and (inside.sum(1) == inside.shape[1]).any()
        assert log_pi[inside].exp().min() >= 0.04 * (1 - 1e-3)


def test_a_batch_of_a_data_set_is_read_at_once(tmp_path, monkeypatch):
    """Row by row, datasets takes longer than a small network's step."""
    asked = []
    at_once = datasets.Dataset.__getitems__
    monkeypatch.setattr(
        datasets.Dataset,
        "__getitems__",
        lambda self, keys: asked.append(len(keys)) or at_once(self, keys),
    )
    rows = datasets.Dataset.from_list(ROWS[:12]).with_format("numpy")
    options = {"max_steps": 6, "prior": "returns"}
    QSFTTrainer(model(), config(tmp_path, **options), rows, None, TOKENIZER).train()
    assert asked == [12] + [4] * (3 + 6)  # for the prior, for the cache, and the steps


# When it is not kept


@pytest.fixture
def refused(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("read all rows")

    monkeypatch.setattr(stage_trainer, "cache_rows", refuse)


@pytest.mark.parametrize(
    "options",
    [
        {"max_steps": 3},  # of 4 rows: each of the 12 is met once
        {"max_steps": -1, "num_train_epochs": 1},
        {"cache_behavior": False},
        {"leftover": "dummy", "backup": "support"},
        {"leftover": "dummy", "backup": "behavior", "train_behavior": True},
    ],
)
def test_rows_are_not_all_read_where_it_would_be_of_no_use(tmp_path, refused, options):
    trained(tmp_path, **options)


def test_rows_met_again_are_read_once(tmp_path, monkeypatch):
    """By the behavior policy: 12 rows at first, and none in the steps."""
    read = []
    cache = stage_trainer.cache_rows

    def counted(rows, function, **options):
        def of_batch(batch):
            read.append(len(batch["input_ids"]))
            return function(batch)

        return cache(rows, of_batch, **options)

    monkeypatch.setattr(stage_trainer, "cache_rows", counted)
    trainer = QSFTTrainer(
        model(), config(tmp_path, max_steps=4, logging_steps=2), ROWS[:12], None, TOKENIZER
    )
    ran = []
    trainer.model.behavior.model.register_forward_hook(lambda *_: ran.append(1))
    rows = trainer.train_dataset
    trainer.train()
    assert read == [4, 4, 4]
    assert len(ran) == 1 + 3  # a row to see what there is, then all of them
    assert trainer.train_dataset is rows


def test_too_much_of_it_is_worked_out_at_each_step(tmp_path, monkeypatch):
    _, plain = trained(tmp_path / "without", backup="max", cache_behavior=False)
    monkeypatch.setattr(behavior_cache, "MOST_BYTES", 2**14)
    with pytest.warns(UserWarning, match="more than .* GiB, so it is worked out at each step"):
        trainer, found = trained(tmp_path / "a", backup="max")
    assert torch.equal(found, plain)
    assert trainer.train_dataset == ROWS[:12]


# Several processes


@pytest.mark.parametrize(("count", "processes"), [(14, 2), (14, 3), (3, 2), (1, 4)])
def test_each_process_reads_its_share_and_has_all(monkeypatch, count, processes):
    """Also where there are fewer rows than all processes take at once."""
    rows = ROWS[:count]
    read = []

    def columns(batch):
        read.append(len(batch["input_ids"]))
        return behavior_columns(behavior, batch, Backup("support", 0.04))

    behavior = model(seed=1)
    alone = cache_rows(rows, columns, batch=2)
    read.clear()
    shares = []
    monkeypatch.setattr(behavior_cache, "gather_object", lambda own: shares.append(own[0]) or own)
    options = {"batch": 2, "processes": processes}
    for process in range(processes):
        cache_rows(rows, columns, process=process, **options)
    assert sum(read) == count
    monkeypatch.setattr(behavior_cache, "gather_object", lambda own: shares)
    together = cache_rows(rows, columns, process=0, **options)
    assert len(together) == count
    for i in range(count):
        assert alone[i].keys() == together[i].keys()
        for name, column in alone[i].items():
            np.testing.assert_allclose(column, together[i][name], rtol=0, atol=1e-5)


def test_too_much_for_one_process_is_too_much_for_all(monkeypatch):
    def little(batch):
        return {"behavior_logit": batch["reward"]}

    monkeypatch.setattr(behavior_cache, "gather_object", lambda own: [*own, None])
    with pytest.warns(UserWarning, match="at each step"):
        found = cache_rows(ROWS, little, batch=2, processes=2)
    assert found is ROWS


def test_a_killed_run_goes_on_with_the_rows_read_again(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 3, "backup": "recorded"}
    whole, _ = trained(tmp_path / "whole", **options)
    trained(tmp_path / "cut", **options)
    (tmp_path / "cut" / "checkpoint-9").rename(tmp_path / "lost")
    again, _ = trained(tmp_path / "cut", **options)
    assert again.state.global_step == 9
    for name, weight in weights(whole.model).items():
        assert torch.equal(weight, weights(again.model)[name])
