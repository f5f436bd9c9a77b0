"""The folder of a run: the same run goes on, another one is refused, damage is named."""

import dataclasses
import os
import shutil
import signal
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from test_trainer import TOKENIZER, config, model, random_rows, weights
from transformers import TrainerCallback, TrainingArguments

from qsft_lite.trainer import QSFTConfig, QSFTTrainer, train_q_sft
from qsft_lite.trainer.runs import (
    NO_EFFECT,
    OF_EVALUATION,
    OF_VALUES,
    checkpoints,
    last_checkpoint,
    lock_folder,
    rows_hash,
    run_settings,
)

ROWS = random_rows(30)


def train(folder: Path, rows=None, validation=None, callbacks=None, values=None, **options):
    options = {"max_steps": 2, **options}
    return train_q_sft(
        model(layers=1),
        TOKENIZER,
        ROWS[:20] if rows is None else rows,
        ROWS[20:] if validation is None else validation,
        config(folder / "one", "behavior", **options),
        config(folder / "two", **{**options, **(values or {})}),
        callbacks=callbacks,
    )


# The same run


@pytest.mark.parametrize("name", ["reward", "return_to_go", "next_action", "input_ids"])
def test_every_row_counts(name):
    rows = random_rows(300)
    packed = datasets.Dataset.from_list([{k: v.tolist() for k, v in r.items()} for r in rows])
    before = rows_hash(rows), rows_hash(packed)
    assert before == (rows_hash(random_rows(300)), rows_hash(packed.select(range(300))))
    for number in (0, 1, 157, 299):
        other = random_rows(300)
        other[number][name] = other[number][name] + 1
        values = {k: v.tolist() for k, v in other[number].items()}
        rebuilt = packed.map(lambda row, i, at=number, new=values: new if i == at else row, True)
        assert rows_hash(other) != before[0]
        assert rows_hash(rebuilt) != before[1]
    assert rows_hash(packed.select([1, 0, *range(2, 300)])) != before[1]


def test_the_settings_named_are_settings():
    fields = {field.name for field in dataclasses.fields(QSFTConfig)}
    old_or_new = {"logging_dir", "gradient_checkpointing", "gradient_checkpointing_kwargs"}
    assert (NO_EFFECT | OF_VALUES | OF_EVALUATION) - fields <= old_or_new
    own = fields - {field.name for field in dataclasses.fields(TrainingArguments)}
    assert own - NO_EFFECT - OF_VALUES == {"stage", "muon", "early_stopping_patience"}


@pytest.mark.parametrize(
    ("first", "then", "same"),
    [
        ({}, {"adam_beta2": 0.9}, False),
        ({}, {"adam_epsilon": 1e-5}, False),
        ({}, {"optim": "sgd"}, False),
        ({}, {"data_seed": 3}, False),
        ({}, {"lr_scheduler_kwargs": {"num_cycles": 2}}, False),
        ({}, {"dataloader_drop_last": True}, False),
        ({}, {"per_device_train_batch_size": 2}, False),
        ({}, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}, True),
        ({}, {"logging_steps": 7, "report_to": "none", "run_name": "b"}, True),
        ({}, {"save_strategy": "steps", "save_steps": 3, "eval_strategy": "epoch"}, True),
        ({}, {"clamp": False}, True),
        ({}, {"compile_layers": True}, True),
        ({"leftover": "dummy", "backup": "behavior"}, {"beta": 9.0, "support": 0.5}, True),
        ({"leftover": "dummy"}, {"prior": 0.2, "cache_behavior": False}, True),
        ({"backup": "behavior"}, {"beta": 9.0, "score": "p"}, True),
        ({"backup": "behavior"}, {"support": 0.5}, False),
        ({"backup": "recorded"}, {"support": 0.5}, False),  # where episodes are cut off
        ({"backup": "returns"}, {"support": 0.5, "cache_behavior": False}, True),
        ({}, {"prior": 0.2}, False),
        ({}, {"prior": "returns"}, False),
        ({}, {"values": "head"}, False),
        ({}, {"leftover": "dummy"}, False),
        ({"backup": "support"}, {"beta": 9.0, "score": "p"}, True),
        ({"backup": "support"}, {"support": 0.5}, False),
        ({"backup": "policy"}, {"beta": 9.0}, False),
        ({"stage": "behavior"}, {"beta": 9.0, "backup": "max", "target_rate": 0.5}, True),
        ({"stage": "behavior", "early_stopping_patience": 2}, {"eval_steps": 3}, False),
    ],
)
def test_a_setting_makes_another_run_where_it_changes_the_weights(tmp_path, first, then, same):
    one, other = (config(tmp_path / n, **o) for n, o in (("a", first), ("b", {**first, **then})))
    assert (run_settings(one) == run_settings(other)) == same


def test_more_processes_make_a_larger_batch(tmp_path, monkeypatch):
    alone = run_settings(config(tmp_path))
    monkeypatch.setattr(QSFTConfig, "world_size", 2)
    assert run_settings(config(tmp_path)) != alone
    assert run_settings(config(tmp_path, per_device_train_batch_size=2)) == alone


def test_other_rewards_or_validation_rows_are_another_run(tmp_path):
    trained = train(tmp_path)
    other = random_rows(30)[:20]
    other[7]["reward"] = other[7]["reward"] * 0
    with pytest.raises(ValueError, match="holds another run, of other rows"):
        train(tmp_path, rows=other)
    with pytest.raises(ValueError, match="holds another run, of other validation"):
        train(tmp_path, validation=ROWS[20:29])
    with pytest.raises(ValueError, match="holds another run, of other adam_beta2"):
        train(tmp_path, adam_beta2=0.9)
    again = train(tmp_path, values={"beta": 7.0})  # which only a policy would read
    for name, weight in weights(trained.q_model).items():
        assert torch.equal(weight, weights(again.q_model)[name])


def test_another_second_stage_is_refused_before_the_first_is_trained(tmp_path):
    train(tmp_path)
    shutil.rmtree(tmp_path / "one")
    with pytest.raises(ValueError, match="two holds another run, of other support"):
        train(tmp_path, values={"support": 0.3})
    assert not (tmp_path / "one" / "finished").exists()


def test_checkpoints_of_an_unknown_run_are_refused(tmp_path):
    (tmp_path / "two" / "checkpoint-3").mkdir(parents=True)
    with pytest.raises(ValueError, match="checkpoints, but no run.json"):
        train(tmp_path)


# One process at a time


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the second process is a fork")
def test_two_processes_cannot_train_in_one_folder(tmp_path):
    args = config(tmp_path / "two")
    end, begin = os.pipe()
    child = os.fork()
    if not child:
        with lock_folder(args):
            os.write(begin, b"!")
            signal.pause()
        os._exit(0)
    os.read(end, 1)
    try:
        with pytest.raises(RuntimeError, match="another process trains in .*two"):
            train(tmp_path)
        assert not (tmp_path / "one" / "run.json").exists()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    train(tmp_path)  # a process that was killed holds nothing


# Refused before any work


def no_work(folder: Path) -> bool:
    return not list(folder.glob("*/finished")) and not list(folder.glob("*/checkpoint-*"))


def test_what_the_second_stage_lacks_is_found_before_the_first(tmp_path):
    short = model(layers=1)
    short.resize_token_embeddings(2, mean_resizing=False)
    args = config(tmp_path / "one", "behavior"), config(tmp_path / "two", leftover="dummy")
    with pytest.raises(ValueError, match="has 2 logits, and the dummy is token 2: call add_dummy"):
        train_q_sft(short, TOKENIZER, ROWS, None, *args)
    without = type(TOKENIZER)(tokenizer_object=TOKENIZER.backend_tokenizer)
    without.get_vocab = lambda: {"a": 0}
    with pytest.raises(ValueError, match="no token <dummy>"):
        train_q_sft(model(), without, ROWS, None, *args)
    assert no_work(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": float("nan")}, "beta must be finite"),
        ({"max_steps": 0}, "max_steps must be a whole number of at least 1, not 0"),
        ({"max_steps": 30.0}, "max_steps must be a whole number of at least 1, not 30.0"),
        ({"max_steps": -1, "num_train_epochs": 0}, "num_train_epochs must be above 0"),
        ({"gradient_accumulation_steps": 1.5}, "gradient_accumulation_steps must be a whole"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size must be a whole"),
        ({"save_only_model": True}, "save_only_model is not supported"),
        ({"fp16": True}, "fp16 does nothing on a CPU"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor is not supported"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **options)
    assert config(tmp_path, max_steps=np.int64(3)).max_steps == 3


def test_rows_that_cannot_be_trained_on_are_refused(tmp_path):
    games = [{"sequence": ["a"], "reward": [0.0], "done": True}]
    unpacked = [{k: v for k, v in row.items() if k != "segment_ids"} for row in ROWS]
    stream = datasets.IterableDataset.from_generator(lambda: iter(ROWS))
    for rows, validation, message in (
        (games, None, "train must be rows of pack.*no column action_mask"),
        (datasets.Dataset.from_list(games), None, "train must be rows of pack"),
        (unpacked, None, "no column segment_ids"),
        ([], None, "train has no rows"),
        (ROWS, [], "validation has no rows"),
        (ROWS, {"a": ROWS}, "validation must be rows of pack"),
        (ROWS, stream, "validation is a stream"),
    ):
        for stage in ("behavior", "values"):
            with pytest.raises(ValueError, match=message):
                QSFTTrainer(model(), config(tmp_path, stage), rows, validation, TOKENIZER)


def test_models_that_cannot_be_trained_are_refused(tmp_path):
    with pytest.raises(TypeError, match="model must be a model, not 'gpt2'"):
        QSFTTrainer("gpt2", config(tmp_path), ROWS, None, TOKENIZER)
    with pytest.raises(ValueError, match="needs the tokenizer"):
        QSFTTrainer(model(), config(tmp_path, leftover="dummy"), ROWS)
    with pytest.raises(ValueError, match="nothing to train"):
        QSFTTrainer(model().requires_grad_(False), config(tmp_path), ROWS, None, TOKENIZER)
    larger = model()
    larger.resize_token_embeddings(40, mean_resizing=False)
    with pytest.raises(ValueError, match="vocabularies of different sizes"):
        QSFTTrainer(model(), config(tmp_path), ROWS, None, TOKENIZER, larger)
    scaled = model()
    scaled.forward = lambda input_ids, **_: halved(model(), input_ids)
    with pytest.raises(ValueError, match="around the head"):
        QSFTTrainer(scaled, config(tmp_path), ROWS, None, TOKENIZER)


def halved(whole, input_ids):
    found = whole(input_ids=input_ids)
    found.logits = found.logits / 2
    return found


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "two").write_text("a file")
    with pytest.raises(OSError, match="File exists: .*two"):
        train(tmp_path)
    assert no_work(tmp_path)


# Damage


class Killed(Exception):
    pass


class Kill(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **others):
        if args.stage == "values" and state.global_step == self.step:
            raise Killed


SAVING = {"save_strategy": "steps", "save_steps": 2, "max_steps": 7}


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run killed in stage two after its second checkpoint, and its whole end."""
    folder = tmp_path_factory.mktemp("killed")
    with pytest.raises(Killed):
        train(folder, callbacks=[Kill(5)], **SAVING)
    assert [path.name for path in checkpoints(folder / "two")] == ["checkpoint-4", "checkpoint-2"]
    whole = train(tmp_path_factory.mktemp("whole"), **SAVING)
    return folder, weights(whole.q_model)


def copy_of(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "run"))


@pytest.mark.parametrize(
    "name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]
)
def test_a_checkpoint_that_lacks_something_is_passed_over(tmp_path, killed, name):
    folder = copy_of(killed[0], tmp_path)
    (folder / "two" / "checkpoint-4" / name).unlink()
    assert last_checkpoint(folder / "two").endswith("checkpoint-2")
    resumed = weights(train(folder, **SAVING).q_model)
    assert all(torch.equal(resumed[n], w) for n, w in killed[1].items())


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b"[" * 50_000])
def test_a_checkpoint_without_a_state_is_passed_over(tmp_path, killed, content):
    folder = copy_of(killed[0], tmp_path) / "two"
    (folder / "checkpoint-4" / "trainer_state.json").write_bytes(content)
    (folder / "checkpoint-5x").mkdir()
    (folder / "checkpoint-9").write_text("a file")
    assert last_checkpoint(folder).endswith("checkpoint-2")


@pytest.mark.parametrize(
    "name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors"]
)
def test_a_damaged_checkpoint_is_named(tmp_path, killed, name):
    folder = copy_of(killed[0], tmp_path)
    path = folder / "two" / "checkpoint-4" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match="(?s)checkpoint-4 cannot be read.*delete it to go on"):
        train(folder, **SAVING)
    shutil.rmtree(path.parent)
    resumed = weights(train(folder, **SAVING).q_model)
    assert all(torch.equal(resumed[n], w) for n, w in killed[1].items())


def test_a_checkpoint_asked_for_by_name_must_be_whole(tmp_path, killed):
    folder = copy_of(killed[0], tmp_path) / "two"
    (folder / "checkpoint-4" / "optimizer.pt").unlink()
    trainer = QSFTTrainer(model(layers=1), config(folder, **SAVING), ROWS, None, TOKENIZER)
    with pytest.raises(ValueError, match="checkpoint-4 is no whole checkpoint"):
        trainer.train(resume_from_checkpoint=str(folder / "checkpoint-4"))


@pytest.mark.parametrize("content", ["", "[]", '{"stage"', "[" * 50_000])
def test_a_damaged_description_is_named(tmp_path, killed, content):
    folder = copy_of(killed[0], tmp_path)
    (folder / "one" / "run.json").write_text(content)
    with pytest.raises(ValueError, match="one.run.json cannot be read.*delete .*one to start anew"):
        train(folder, **SAVING)


@pytest.mark.parametrize("name", ["model.safetensors", "trainer_state.json"])
def test_damaged_finished_weights_are_named(tmp_path, killed, name):
    folder = copy_of(killed[0], tmp_path)
    (folder / "one" / "finished" / name).write_bytes(b"[]")
    with pytest.raises(ValueError, match="finished cannot be read.*delete it"):
        train(folder, **SAVING)
    shutil.rmtree(folder / "one" / "finished")
    resumed = weights(train(folder, **SAVING).q_model)
    assert all(torch.equal(resumed[n], w) for n, w in killed[1].items())


# Batches without actions, and frozen weights


@pytest.mark.parametrize("options", [{}, {"backup": "returns"}, {"leftover": "dummy"}])
def test_rows_without_actions_change_nothing(tmp_path, options):
    def trained(folder, rows):
        args = config(
            folder, max_steps=3, logging_steps=1, optim="sgd", learning_rate=0.5,
            train_sampling_strategy="sequential", per_device_train_batch_size=1,
            gradient_accumulation_steps=len(rows), **options,
        )  # fmt: skip
        trainer = QSFTTrainer(model(), args, rows, rows, TOKENIZER)
        trainer.train()
        return weights(trainer.model.q), trainer.evaluate()["eval_loss"]

    empty = {**ROWS[0], "action_mask": np.zeros_like(ROWS[0]["action_mask"])}
    alone, loss = trained(tmp_path / "a", ROWS[:3])
    among, other_loss = trained(tmp_path / "b", [empty, *ROWS[:2], empty, ROWS[2], empty])
    assert other_loss == pytest.approx(loss, abs=1e-6)
    for name, weight in alone.items():
        torch.testing.assert_close(among[name], weight, rtol=0, atol=1e-6)


def test_a_step_without_any_action_is_no_error(tmp_path):
    empty = {**ROWS[0], "action_mask": np.zeros_like(ROWS[0]["action_mask"])}
    args = config(tmp_path, max_steps=2, logging_steps=1, optim="sgd")
    trainer = QSFTTrainer(model(), args, [empty] * 4, [empty], TOKENIZER)
    trainer.train()
    for name, weight in weights(model()).items():
        assert torch.equal(weights(trainer.model.q)[name], weight)
    with pytest.raises(ValueError, match="no action token"):
        trainer.evaluate()


def test_frozen_parts_of_a_trained_behavior_policy_stay_frozen(tmp_path):
    behavior = model(seed=1).requires_grad_(False)
    chosen = behavior.model.layers[1].mlp.requires_grad_(True)
    before = weights(behavior)
    args = config(tmp_path, leftover="dummy", max_steps=3, train_behavior=True)
    QSFTTrainer(model(), args, ROWS, None, TOKENIZER, behavior).train()
    own = {f"model.layers.1.mlp.{name}" for name, _ in chosen.named_parameters()}
    moved = {n for n, weight in weights(behavior).items() if not torch.equal(weight, before[n])}
    assert moved == own
