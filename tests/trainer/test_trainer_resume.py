"""A training that is killed, and started again, ends as if nothing had happened."""

import math
import random
from pathlib import Path

import pytest
from test_trainer import TOKENIZER, assert_identical, config, model, random_rows, weights
from transformers import TrainerCallback

from qsft_lite.trainer import QSFTTrainer, train_q_sft
from qsft_lite.trainer.runs import last_checkpoint


class Killed(Exception):
    pass


class Kill(TrainerCallback):
    """Ends the run after some step, as a power cut would: whatever is not saved is lost."""

    def __init__(self, stage: str, step: int):
        self.stage, self.step = stage, step

    def on_step_end(self, args, state, control, **others):
        if args.stage == self.stage and state.global_step == self.step:
            raise Killed


class KillWhileSaving(TrainerCallback):
    """Ends the run with a checkpoint half-written: weights, but no state."""

    def on_save(self, args, state, control, **others):
        (Path(last_checkpoint(Path(args.output_dir))) / "trainer_state.json").write_text('{"ha')
        raise Killed


class KillAfterTheLastCheckpoint(TrainerCallback):
    def on_train_end(self, args, state, control, **others):
        raise Killed


def train_both(folder: Path, callbacks=(), **options):
    rows = random_rows(30)
    options = {
        "save_strategy": "steps",
        "save_steps": 3,
        "gradient_accumulation_steps": 2,
    } | options
    return train_q_sft(
        model(),
        TOKENIZER,
        rows[:22],
        rows[22:],
        config(folder / "one", "behavior", early_stopping_patience=2, eval_steps=3, **options),
        config(folder / "two", target_rate=0.1, **options),
        callbacks=list(callbacks),
    )


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return train_both(tmp_path_factory.mktemp("unbroken"))


def test_a_killed_run_ends_with_the_same_bits(tmp_path, unbroken):
    rng = random.Random()
    kills = [Kill("behavior", rng.randint(1, 12)), KillWhileSaving(), KillAfterTheLastCheckpoint()]
    kills += [Kill("values", rng.randint(1, 20)) for _ in range(2)]
    kills += [KillWhileSaving(), KillAfterTheLastCheckpoint()]
    for kill in kills:
        print(type(kill).__name__, vars(kill))  # to repeat a failure
        try:
            train_both(tmp_path, [kill])
        except Killed:
            pass
    resumed = train_both(tmp_path)
    assert_identical(weights(resumed.behavior), weights(unbroken.behavior))
    assert_identical(weights(resumed.q_model), weights(unbroken.q_model))
    for stage in ("behavior", "values"):
        assert lines(resumed.logs[stage]) == lines(unbroken.logs[stage])


def lines(log: list[dict]) -> list[tuple]:
    """What was logged, less what depends on the clock or on the steps since the last start."""
    names = ("step", "eval_loss", "target_mean", "q_50", "value_bias", "grad_norm")
    return [tuple(line.get(name) for name in names) for line in log if "train_runtime" not in line]


@pytest.mark.parametrize(
    "options",
    [
        {"backup": "random"},
        {"returns_first": 0.7, "values": "head"},
        {"backup": "recorded"},
        {"leftover": "dummy", "backup": "behavior", "train_behavior": True},
    ],
)
def test_other_targets_resume_with_the_same_bits(tmp_path, options):
    results = []
    for name in ("unbroken", "killed"):
        args = config(tmp_path / name, save_strategy="steps", save_steps=4, max_steps=12, **options)
        kills = [Kill("values", 7)] if name == "killed" else []
        for callbacks in [kills, []] if kills else [[]]:
            trainer = QSFTTrainer(model(), args, random_rows(9), None, TOKENIZER, None, callbacks)
            try:
                trainer.train(resume_from_checkpoint=True)
            except Killed:
                pass
        results.append(weights(trainer.model))
    assert_identical(*results)


def test_a_finished_run_is_not_trained_again(tmp_path, unbroken):
    class NoStep(TrainerCallback):
        def on_step_end(self, args, state, control, **others):
            raise AssertionError("trained again")

    train_both(tmp_path)
    again = train_both(tmp_path, [NoStep()])
    assert_identical(weights(again.q_model), weights(unbroken.q_model))
    assert not list(tmp_path.glob("*/checkpoint-*"))


def test_another_run_in_the_folder_is_refused(tmp_path):
    train_both(tmp_path, max_steps=2)
    with pytest.raises(ValueError, match="another run, of other learning_rate"):
        train_both(tmp_path, max_steps=2, learning_rate=1e-4)


def test_the_log_holds_them(unbroken):
    (line, *_) = [line for line in unbroken.logs["values"] if "loss" in line]
    assert set(line) >= {"loss", "target_mean", "target_std", "clamped", "q_50", "value_bias"}
    held_out = [line for line in unbroken.logs["behavior"] if "eval_loss" in line]
    assert held_out and all(math.isfinite(line["eval_loss"]) for line in held_out)
