"""Networks divided between two processes by FSDP2 train as whole ones do, killed or not."""

import json
import os
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from test_torchrun import run_together
from test_trainer import TOKENIZER, config, model, random_rows
from test_trainer_resume import Kill, Killed
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from qsft_lite.trainer import QSFTConfig, train_q_sft

# Of each form the settings of both stages, and those of stage two.
FORMS = {
    "paired": (
        {"optim": "adamw_torch", "learning_rate": 3e-3, "activation_checkpointing": True},
        {"backup": "recorded"},
    ),
    "muon": (
        {"muon": True, "learning_rate": 1e-2, "gradient_accumulation_steps": 2},
        {"backup": "behavior"},
    ),
    "lora": ({}, {"backup": "support"}),
}
KILLED = "paired"


class CheckDivided(TrainerCallback):
    """Of each weight the process holds a part, about half of all."""

    def on_step_end(self, args, state, control, model=None, **others):
        weights = list(model.parameters())
        assert all(isinstance(weight, DTensor) for weight in weights)
        own = sum(weight.to_local().numel() for weight in weights)
        assert 0.4 < own / sum(weight.numel() for weight in weights) < 0.6


def network(form: str):
    if form != "lora":
        return model()
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    adapters = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], lora_dropout=0.0)
    return peft.get_peft_model(model(), adapters)


def train(folder: Path, form: str, *, processes: int, callbacks=()) -> None:
    """Both stages, to their end or until they are killed; the first process writes the weights."""
    rows = random_rows(27)  # of which the processes have 4 and 3 for evaluation, one at a time
    both, values = FORMS[form]
    options = {
        "per_device_train_batch_size": 4 // processes // both.get("gradient_accumulation_steps", 1),
        "per_device_eval_batch_size": 1,
        "max_steps": 6,
        "optim": "sgd",
        "learning_rate": 0.3,
        "logging_steps": 2,
        "save_strategy": "steps",
        "save_steps": 3,
        "fully_shard": processes > 1,
        **both,
    }
    best = {"eval_strategy": "steps", "eval_steps": 3, "load_best_model_at_end": True}
    trained = train_q_sft(
        network(form),
        TOKENIZER,
        rows[:20],
        rows[20:],
        config(folder / "one", "behavior", **best, **options),
        config(folder / "two", support=0.03, target_rate=0.3, **values, **options),
        callbacks=[*callbacks, *([CheckDivided()] if processes > 1 else [])],
    )
    if int(os.environ.get("RANK", 0)) == 0:
        for name in ("behavior", "q_model"):
            weights = getattr(trained, name).state_dict()
            weights = {key: weight.clone() for key, weight in weights.items()}
            safetensors.torch.save_file(weights, folder / f"{name}.safetensors")
        losses = [
            line[key]
            for stage in trained.logs.values()
            for line in stage
            for key in ("loss", "eval_loss")
            if key in line
        ]
        (folder / "losses.json").write_text(json.dumps(losses))


def kill(folder: Path, *, processes: int) -> None:
    """Stage two is killed after step 5, with a checkpoint of step 3."""
    try:
        train(folder, KILLED, processes=processes, callbacks=[Kill("values", 5)])
    except Killed:
        pass
    assert (folder / "two" / "checkpoint-3" / "optimizer.pt").exists()
    assert not (folder / "two" / "finished").exists()


def check_same(folder: Path, expected: Path) -> None:
    for name in ("behavior", "q_model"):
        ours, theirs = (
            safetensors.torch.load_file(place / f"{name}.safetensors")
            for place in (folder, expected)
        )
        assert ours.keys() == theirs.keys()
        for key in theirs:
            torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=2e-5)


@pytest.mark.slow
def test_divided_networks_train_as_whole_ones_whoever_goes_on(tmp_path):
    pytest.importorskip("peft")
    alone, together = tmp_path / "alone", tmp_path / "together"
    for form in FORMS:
        train(alone / form, form, processes=1)
    kill(together / "one_then_two", processes=1)
    run_together(__file__, together)
    train(together / "two_then_one", KILLED, processes=1)

    for form in FORMS:
        check_same(together / form, alone / form)
        losses, expected = (
            json.loads((place / form / "losses.json").read_text()) for place in (together, alone)
        )
        assert len(expected) == 8 and losses == pytest.approx(expected, abs=1e-4)
    check_same(together / "one_then_two", alone / KILLED)
    check_same(together / "two_then_one", alone / KILLED)
    names = [
        {path.name for path in (folder / KILLED / "two" / "finished").iterdir()}
        for folder in (alone, together)
    ]
    assert names[0] == names[1] and "model.safetensors" in names[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fully_shard": True}, "torchrun"),
        ({"fsdp": "full_shard"}, "fully_shard=True"),
        ({"fsdp_config": {"version": 2}}, "fully_shard=True"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_done(options, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        QSFTConfig(output_dir=str(tmp_path), use_cpu=True, **options)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    for name in FORMS:
        train(place / name, name, processes=2)
    train(place / "one_then_two", KILLED, processes=2)
    kill(place / "two_then_one", processes=2)
