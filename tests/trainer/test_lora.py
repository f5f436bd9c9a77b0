"""LoRA by peft, where it is installed: trained, saved merged into whole models, and loaded."""

import datasets
import pytest
import torch

from qsft_lite import data, models
from qsft_lite.policy import QSFTPolicy
from qsft_lite.trainer import train_q_sft
from qsft_lite.trainer.config import QSFTConfig

peft = pytest.importorskip("peft")

TOKENIZER = models.character_tokenizer("abcdefgh")
DUMMY = models.dummy_id(TOKENIZER)
ACTIONS = ["c\n", "d\n", "ef\n"]


def adapted(seed=1, **options):
    """A tiny Llama with adapters that change it."""
    base = models.small_model(TOKENIZER, layers=2, width=32, heads=2, context=64, seed=0)
    torch.manual_seed(seed)
    config = peft.LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, **options)
    return peft.get_peft_model(base, config)


def flags(model):
    return {name: weight.requires_grad for name, weight in model.named_parameters()}


def opinions(policy):
    return torch.tensor(policy.candidates("ab\n", ACTIONS).drop(columns="action").to_numpy())


@pytest.mark.parametrize("train_behavior", [False, True])
def test_adapters_are_trained_and_saved_in_whole_models(train_behavior, tmp_path):
    sequence = {"text": ["ab\n", "c\n", "d\n", "e\n"], "is_action": [False, True, False, True]}
    rows = [{**sequence, "reward": [0.0, 0.0, 0.0, i % 2], "done": True} for i in range(8)]
    scale = data.RewardScale(0, 1)
    packed = data.pack(data.encode(datasets.Dataset.from_list(rows), TOKENIZER, scale=scale), 32)
    model = adapted(target_modules=["q_proj", "v_proj"])
    base = model.get_base_model().model.layers[0].self_attn.q_proj.base_layer.weight.clone()
    expected = flags(model)
    stages = [
        QSFTConfig(
            output_dir=str(tmp_path / stage),
            stage=stage,
            train_behavior=train_behavior and stage == "values",
            max_steps=8,
            learning_rate=1e-2,
            per_device_train_batch_size=2,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
        )
        for stage in ("behavior", "values")
    ]
    trained = train_q_sft(model, TOKENIZER, packed, packed, *stages)
    assert flags(trained.q_model) == expected
    assert flags(trained.behavior) == (expected if train_behavior else dict.fromkeys(expected, 0))
    layer = trained.q_model.get_base_model().model.layers[0].self_attn.q_proj
    assert torch.equal(layer.base_layer.weight, base)  # the adapters alone were trained

    policy = QSFTPolicy(trained.behavior, trained.q_model, TOKENIZER, 4.0, dummy=DUMMY)
    before = opinions(policy)
    policy.save_pretrained(tmp_path / "policy")
    assert torch.equal(opinions(policy), before)
    loaded = QSFTPolicy.from_pretrained(tmp_path / "policy")
    assert type(loaded.q_model).__name__ == "LlamaForCausalLM"
    torch.testing.assert_close(opinions(loaded), before, rtol=0, atol=1e-5)


def off(model):
    model.base_model.disable_adapter_layers()
    return model


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        # It is tied to the head, which the merged weights change too.
        (lambda: adapted(target_modules=["embed_tokens"]), "make another model of it"),
        (lambda: off(adapted(target_modules=["q_proj"])), "make another model of it"),
        (
            lambda: peft.inject_adapter_in_model(
                peft.LoraConfig(target_modules=["q_proj"]),
                models.small_model(TOKENIZER, layers=1, width=8, heads=1, context=8, seed=0),
            ),
            "cannot be merged",
        ),
    ],
)
def test_adapters_that_cannot_be_merged_leave_the_folder_as_it_was(make, complaint, tmp_path):
    QSFTPolicy(adapted(target_modules=["q_proj"]), None, TOKENIZER, 0.0).save_pretrained(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=complaint):
        QSFTPolicy(make(), None, TOKENIZER, 0.0).save_pretrained(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
