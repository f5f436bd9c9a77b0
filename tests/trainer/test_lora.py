"""LoRA by peft, where it is installed: trained, saved merged into whole models, and loaded."""

import copy
import shutil

import datasets
import numpy as np
import pytest
import safetensors.torch
import torch
from transformers import TrainerCallback

from qsft_lite import data, models
from qsft_lite.baselines import TrainedMethod, train
from qsft_lite.models import networks
from qsft_lite.policy import QSFTPolicy
from qsft_lite.trainer import QSFTTrainer, stage_trainer, stages, train_q_sft
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
    found = policy.candidates("ab\n", ACTIONS).drop(columns="action")
    return torch.tensor(found.to_numpy(dtype=float))


@pytest.mark.parametrize("form", ["paired", "dummy"])
def test_adapters_are_trained_and_saved_in_whole_models(form, tmp_path):
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
            leftover=form,
            train_behavior=form == "dummy" and stage == "values",
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
    assert flags(trained.behavior) == (expected if form == "dummy" else dict.fromkeys(expected, 0))
    layer = trained.q_model.get_base_model().model.layers[0].self_attn.q_proj
    assert torch.equal(layer.base_layer.weight, base)  # the adapters alone were trained

    options = {"score": "paired"} if form == "paired" else {"dummy": DUMMY}
    policy = QSFTPolicy(trained.behavior, trained.q_model, TOKENIZER, 4.0, **options)
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


# One base for the three networks of stage two


@pytest.fixture
def packed():
    texts = ["ab\n", "c\n", "d\n", "e\n"]
    rows = [
        {"text": texts, "is_action": [False, True, False, True], "reward": [0.0, 0, 0, i % 2]}
        for i in range(8)
    ]
    episodes = datasets.Dataset.from_list([{**row, "done": True} for row in rows])
    return data.pack(data.encode(episodes, TOKENIZER, scale=data.RewardScale(0, 1)), 32)


def arguments(folder, **changes):
    options = {"stage": "values", "max_steps": 6, "learning_rate": 1e-2, "target_rate": 0.3}
    options |= {"per_device_train_batch_size": 2, "use_cpu": True, "disable_tqdm": True}
    return QSFTConfig(output_dir=str(folder), **{**options, **changes})


def trained_values(folder, packed, monkeypatch=None, callbacks=(), lora=None, **changes):
    model = adapted(**{"target_modules": ["q_proj", "v_proj"], **(lora or {})})
    if monkeypatch:  # three whole networks, as of a plain model
        monkeypatch.setattr(stage_trainer, "twin", lambda one, name: copy.deepcopy(one))
        monkeypatch.setattr(stages, "twin", lambda one, name: copy.deepcopy(one))
    trainer = QSFTTrainer(
        model, arguments(folder, **changes), packed, packed, TOKENIZER, callbacks=list(callbacks)
    )
    trainer.train(resume_from_checkpoint=True)
    return trainer


def adapter_of(network):
    name = getattr(network, "name", "default")
    return [weight for key, weight in network.named_parameters() if f".{name}." in key]


DUMMY_ALONG = {"leftover": "dummy", "backup": "behavior", "train_behavior": True}


@pytest.mark.parametrize("options", [{}, {"backup": "support", "support": 0.1}, DUMMY_ALONG])
def test_adapters_on_one_base_train_as_three_whole_networks(tmp_path, packed, options, monkeypatch):
    lora = {"lora_dropout": 0.2, "bias": "none"}
    shared = trained_values(tmp_path / "a", packed, lora=lora, **options)
    apart = trained_values(tmp_path / "b", packed, monkeypatch, lora=lora, **options)
    for name in ("q", "target", "behavior"):
        one, other = getattr(shared.model, name), getattr(apart.model, name)
        pairs = list(zip(adapter_of(one), adapter_of(other), strict=True))
        assert len(pairs) == 8 and all(torch.equal(*pair) for pair in pairs)
    losses = [[line.get("eval_loss") for line in t.state.log_history] for t in (shared, apart)]
    assert losses[0] == losses[1]
    assert shared.evaluate()["eval_loss"] == apart.evaluate()["eval_loss"]
    sizes = [sum(p.numel() for p in t.model.parameters()) for t in (shared, apart)]
    adapter = sum(p.numel() for p in adapter_of(shared.model.q))
    assert sizes[0] == sizes[1] / 3 + 2 * adapter
    first = adapter_of(adapted(target_modules=["q_proj", "v_proj"], **lora))
    pairs = zip(adapter_of(shared.model.behavior), first, strict=True)
    assert all(torch.equal(*pair) for pair in pairs) == ("leftover" not in options)


def test_a_paired_value_is_what_the_adapter_has_added_to_a_logit(tmp_path, packed):
    trainer = trained_values(tmp_path, packed, prior=0.3)
    stage, ids = trainer.model.eval(), torch.tensor([[1, 3, 4, 5]])
    pi, q = (networks.separate(one) for one in (stage.behavior, stage.q))
    policy = QSFTPolicy(pi, q, TOKENIZER, 1.0, "paired")
    with torch.no_grad():
        q, pi = (network(ids).logits for network in (q, pi))
    added = (q - pi)[0, -1]
    assert added.abs().max() > 0.1
    found = policy._action_values(policy._logits([[1, 3, 4, 5, 0]], 4))[0, 0]
    expected = 1 / (1 + torch.exp(-added) * 0.7 / 0.3)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_checkpoints_hold_the_adapters_alone_and_resume(tmp_path, packed):
    class Kill(TrainerCallback):
        def on_step_end(self, args, state, control, **others):
            if state.global_step == 5:
                raise InterruptedError

    saving = {"save_strategy": "steps", "save_steps": 2}
    whole = trained_values(tmp_path / "whole", packed, **saving)
    with pytest.raises(InterruptedError):
        trained_values(tmp_path / "killed", packed, callbacks=[Kill()], **saving)
    file = tmp_path / "killed" / "checkpoint-4" / "model.safetensors"
    names = safetensors.torch.load_file(file)
    assert len(names) == 24 and all("lora" in name for name in names)
    resumed = trained_values(tmp_path / "killed", packed, **saving)
    state = whole.model.state_dict()
    assert all(torch.equal(weight, state[n]) for n, weight in resumed.model.state_dict().items())
    shutil.rmtree(tmp_path / "killed" / "checkpoint-6")
    safetensors.torch.save_file(dict(list(names.items())[1:]), file)
    with pytest.raises(ValueError, match="checkpoint-4 cannot be read.*holds other weights"):
        trained_values(tmp_path / "killed", packed, **saving)


def test_a_separated_adapter_is_what_it_was():
    model = adapted(target_modules=["q_proj"], lora_dropout=0.5).eval()
    twin = networks.twin(model, "twin").eval()
    ids = torch.tensor([[1, 3, 4, 5]])
    with torch.no_grad():
        first = model(ids).logits
        assert torch.equal(twin(ids).logits, first)
        for weight in twin.parameters():
            weight.add_(0.3)
        changed = twin(ids).logits
        assert torch.equal(model(ids).logits, first) and not torch.allclose(changed, first)
        alone, model = networks.separate(twin), networks.separate(model)
        assert torch.equal(alone(ids).logits, changed) and torch.equal(model(ids).logits, first)
        assert list(alone.peft_config) == list(model.peft_config) == ["default"]
        torch.testing.assert_close(alone.merge_and_unload()(ids).logits, changed)


def test_a_base_that_is_trained_is_not_shared(tmp_path, packed):
    model = adapted(target_modules=["q_proj"])
    norm = model.get_base_model().model.norm.weight.requires_grad_(True)
    before = norm.clone()
    trainer = QSFTTrainer(model, arguments(tmp_path, max_steps=3), packed, None, TOKENIZER)
    stage = trainer.model
    trainer.train()
    of_target = stage.target.get_base_model().model.norm.weight
    assert not isinstance(stage.target, networks.Adapter) and of_target is not norm
    ends = [(weight - before).norm() for weight in (of_target, norm)]
    assert 0 < ends[0] < ends[1]
    assert torch.equal(stage.behavior.get_base_model().model.norm.weight, before)


def test_activations_of_two_adapters_are_not_computed_again(tmp_path, packed):
    with pytest.raises(ValueError, match="exclude each other"):
        trained_values(tmp_path, packed, **DUMMY_ALONG, activation_checkpointing=True)
    trained_values(tmp_path, packed, activation_checkpointing=True)


def test_the_methods_train_adapters_too(tmp_path):
    row = {"text": ["ab\n", "c\n"], "is_action": [False, True], "reward": [0.0, 1.0], "done": True}
    games = datasets.Dataset.from_list([row] * 4)
    episodes = data.encode(games, TOKENIZER, scale=data.RewardScale(0, 1))
    for method in ("bc", "q_sft", "q_sft_dummy", "q_sft_new_head", "ilql", "q_transformer"):
        model = adapted(target_modules=["q_proj"])
        args = arguments(tmp_path, max_steps=2, stage="behavior")
        trained = train(method, model, TOKENIZER, episodes, None, args, length=32)
        trained.save_pretrained(tmp_path / "saved")
        loaded = TrainedMethod.from_pretrained(tmp_path / "saved")
        for before, after in zip(
            trained.values_of([[1, 3]], [[4, 5]]), loaded.values_of([[1, 3]], [[4, 5]]), strict=True
        ):
            if before is not None:
                np.testing.assert_allclose(before[0], after[0], atol=1e-5)
