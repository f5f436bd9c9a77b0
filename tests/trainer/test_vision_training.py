"""Training on pictures: every stage, the cache, resuming; a task where only the picture tells."""

import copy

import numpy as np
import pytest
import torch
from hf_vision import FAMILIES, write_model
from small_pictures import ACTIONS, ASK, TOKENIZER, TOKENS, Sides, picture, vision_model
from small_pictures import write_episodes as write
from test_trainer import config
from torch import nn
from transformers import TrainerCallback

from qsft_lite import models
from qsft_lite.baselines import TrainedMethod, train
from qsft_lite.data import RewardScale, encode, load_trajectories, pack
from qsft_lite.evaluate import evaluate
from qsft_lite.loss import Backup
from qsft_lite.models.networks import separate
from qsft_lite.policy import QSFTPolicy
from qsft_lite.trainer import QSFTTrainer, StageTrainer, behavior_cache, runs
from qsft_lite.trainer.behavior_cache import cache_rows
from qsft_lite.trainer.optimizer import layer_matrices
from qsft_lite.trainer.paired_step import behavior_columns
from qsft_lite.trainer.step import token_states

SCALE = RewardScale(0.0, 1.0)


def encoded(path, tokens=TOKENS):
    episodes = load_trajectories(path)
    return encode(episodes, TOKENIZER, scale=SCALE, memory="turn", image_tokens=tokens)


def vector(module):
    return nn.utils.parameters_to_vector(module.parameters()).detach().clone()


# The toy task: red asks for left, blue for right, and the recorded play knows neither


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Cloning and then paired values of the toy task, one turn an episode."""
    folder = tmp_path_factory.mktemp("toy")
    rows = encoded(write(folder / "data", 400, turns=1))
    args = config(folder / "runs", max_steps=150, per_device_train_batch_size=8, learning_rate=5e-3)
    options = {"validation": None, "args": args, "length": 72}
    cloned = train("bc", vision_model(), TOKENIZER, rows, **options)
    made = {"bc": cloned}
    for method in ("q_sft", "q_sft_new_head", "ilql"):
        made[method] = train(method, cloned.behavior, TOKENIZER, rows, **options)
    return made


def true_and_learned(method: TrainedMethod):
    """For fresh pictures of both colors: which side is right, and the values of both sides."""
    random = np.random.default_rng(9)
    colors = ["red", "blue"] * 8
    before = [1, *[3] * TOKENS, *TOKENIZER(" which side?\n", add_special_tokens=False).input_ids]
    sides = [TOKENIZER(text, add_special_tokens=False).input_ids[0] for text in ACTIONS]
    shown = [[picture(color, random)] for color in colors]
    log_pi, values = method.values_of([before] * 16, [sides] * 16, shown)
    truth = np.array([[color == "red", color == "blue"] for color in colors], dtype=float)
    return truth, np.exp(np.stack(log_pi)), None if values is None else np.stack(values)


def test_the_clone_plays_either_side_whatever_it_sees(trained):
    _, pi, values = true_and_learned(trained["bc"])
    assert values is None and np.abs(pi - 0.5).max() < 0.2


@pytest.mark.parametrize("name", ["q_sft", "q_sft_new_head"])
def test_values_tell_from_the_picture_which_side_is_right(trained, name):
    truth, _, values = true_and_learned(trained[name])
    assert np.abs(values - truth).max() < 0.1


@pytest.mark.parametrize("name", ["q_sft", "q_sft_new_head", "ilql"])
def test_the_policy_plays_what_it_sees(trained, name):
    played = evaluate(trained[name].policy(beta=30.0, greedy=True), Sides(), 40, seed=3, batch=16)
    assert played.mean == played.success == 1.0
    assert {row["text"][0] for row in played.transcripts} == {ASK}
    blind = evaluate(trained["bc"].policy(), Sides(), 100, seed=3)
    assert 0.3 < blind.mean < 0.7


def test_a_method_that_sees_is_saved_and_plays_the_same(trained, tmp_path):
    trained["q_sft"].save_pretrained(tmp_path / "q_sft")
    again = TrainedMethod.from_pretrained(tmp_path / "q_sft")
    for one, other in zip(
        true_and_learned(again)[1:], true_and_learned(trained["q_sft"])[1:], strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert evaluate(again.policy(beta=30.0, greedy=True), Sides(), 20, seed=4).mean == 1.0


# Episodes of several turns


def test_all_methods_train_on_pictures(tmp_path):
    rows = encoded(write(tmp_path / "data", 12, turns=3))
    args = config(tmp_path, max_steps=2, per_device_train_batch_size=2)
    options = {"validation": rows.select(range(2)), "args": args, "length": 64}
    for method in ("bc", "filtered_bc", "return_conditioned", "cql", "mc_returns", "q_sft_dummy"):
        found = train(method, vision_model(context=80), TOKENIZER, rows, **options)
        assert all(np.isfinite(line.get("loss", 0.0)) for line in found.logs), method


def test_the_cache_says_of_rows_with_pictures_what_is_read_live(tmp_path):
    rows = pack(encoded(write(tmp_path / "data", 24, turns=3)), 64)
    found = {}
    for name, cached in (("with", True), ("without", False)):
        args = config(
            tmp_path / name, max_steps=12, per_device_train_batch_size=2, target_rate=0.2,
            cache_behavior=cached, optim="sgd", learning_rate=0.3,
        )  # fmt: skip
        trainer = QSFTTrainer(vision_model(seed=2), args, rows, rows, TOKENIZER)
        trainer.train()
        found[name] = vector(trainer.model.q), trainer.evaluate()["eval_loss"]
    torch.testing.assert_close(found["with"][0], found["without"][0], rtol=0, atol=2e-5)
    assert found["with"][1] == pytest.approx(found["without"][1], abs=1e-4)
    # And what it keeps is that of the picture, not of its neighbour.
    model, backup = vision_model(seed=2).eval(), Backup("behavior", 1e-3)
    collator = trainer.data_collator
    kept = cache_rows(
        rows, lambda batch: behavior_columns(model, batch, backup), batch=3, collate=collator
    )
    for index in (0, 4):
        alone = behavior_columns(model, collator([rows[index]]), backup)["behavior_logit"][0]
        torch.testing.assert_close(torch.tensor(kept[index]["behavior_logit"]), alone)
    assert isinstance(kept, behavior_cache.CachedRows)


def test_as_studies_train_with_muon_and_mixed_precision(tmp_path):
    rows = encoded(write(tmp_path / "data", 12, turns=3))
    args = config(tmp_path, max_steps=2, per_device_train_batch_size=2, muon=True, bf16=True)
    model = vision_model()
    convolution = model.model.vision_tower.convolutions[0].weight
    assert all(convolution is not matrix for matrix in layer_matrices(model))
    found = train("q_sft", model, TOKENIZER, rows, None, args, length=64)
    after = found.values.model.vision_tower.convolutions[0].weight
    assert after.isfinite().all() and not torch.equal(after, convolution)


class Killed(TrainerCallback):
    def on_step_end(self, args, state, control, **others):
        if state.global_step == 4:
            raise KeyboardInterrupt


def test_a_run_with_pictures_goes_on_where_it_was(tmp_path):
    rows = pack(encoded(write(tmp_path / "data", 12, turns=3)), 64)

    def run(name, *callbacks):
        args = config(
            tmp_path / name, max_steps=6, per_device_train_batch_size=2, save_strategy="steps",
            save_steps=3,
        )  # fmt: skip
        model = vision_model(seed=2)
        trainer = QSFTTrainer(model, args, rows, None, TOKENIZER, callbacks=list(callbacks))
        trainer.run()
        return vector(trainer.model.q)

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("broken", Killed())
    assert torch.equal(run("broken"), whole)


def test_other_pictures_are_another_run_and_the_same_elsewhere_are_not(tmp_path):
    hashes = [
        runs.rows_hash(pack(encoded(write(tmp_path / name, 6)), 64)) for name in ("one", "two")
    ]
    array = np.load(tmp_path / "two" / "images-00000.npy")
    array[0] = 255 - array[0]
    np.save(tmp_path / "two" / "images-00000.npy", array)
    changed = pack(encoded(tmp_path / "two" / "episodes.jsonl"), 64)
    assert hashes[0] == hashes[1] != runs.rows_hash(changed)
    as_list = [changed[i] for i in range(len(changed))]
    before = runs.rows_hash(as_list)
    as_list[0] = {**as_list[0], "images": as_list[0]["images"][::-1]}
    assert runs.rows_hash(as_list) != before


# What cannot be trained on


def test_pictures_and_models_that_do_not_fit_are_refused_before_training(tmp_path):
    path = write(tmp_path / "data", 6)
    rows = pack(encoded(path), 64)
    args = config(tmp_path / "run", stage="behavior")

    def trainer(model, rows):
        return QSFTTrainer(model, args, rows, None, TOKENIZER)

    shape = {"layers": 1, "width": 16, "heads": 2, "context": 64, "seed": 0}
    with pytest.raises(ValueError, match="have pictures, and LlamaForCausalLM sees none"):
        trainer(models.small_model(TOKENIZER, **shape), rows)
    large = models.small_vision_model(TOKENIZER, **shape, image_size=16, image_tokens=4)
    with pytest.raises(ValueError, match="of 8 x 8 pixels, where the model sees 16 x 16"):
        trainer(large, rows)
    with pytest.raises(ValueError, match=r"6 image tokens, and \w+ has 4 for each"):
        trainer(vision_model(), pack(encoded(path, tokens=3), 16))
    with pytest.raises(ValueError, match="have pictures, and LlamaForCausalLM sees none"):
        StageTrainer(
            QSFTTrainer(models.small_model(TOKENIZER, **shape), args, None).model, args, rows
        )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("stage", ["behavior", "values"])
def test_a_step_of_training_moves_a_model_of_transformers(family, stage, tmp_path):
    write_model(family, tmp_path / "model")
    model, tokenizer = models.load_model(tmp_path / "model")
    rows = encode(
        load_trajectories(write(tmp_path / "data", 6)), tokenizer, scale=SCALE, memory="turn",
        image_tokens=models.image_tokens(model),
    )  # fmt: skip
    args = config(tmp_path / "run", stage=stage, max_steps=1, per_device_train_batch_size=2)
    before = copy.deepcopy(dict(model.named_parameters()))
    trainer = QSFTTrainer(model, args, pack(rows, 64), None, tokenizer)
    trainer.train()
    moved = {
        name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])
    }
    for part in ("vision", "text" if family == "smolvlm" else "language", "head"):
        assert any(part in name for name in moved), part


def test_lora_on_the_language_half_alone(tmp_path):
    peft = pytest.importorskip("peft")
    rows = pack(encoded(write(tmp_path / "data", 8)), 64)
    model = vision_model()
    model.model.vision_tower.requires_grad_(False)
    adapters = peft.LoraConfig(
        r=4,
        target_modules=r".*language_model.*\.(q_proj|v_proj)",
        modules_to_save=["multi_modal_projector"],
    )
    model = peft.get_peft_model(model, adapters)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    args = config(tmp_path / "run", max_steps=3, per_device_train_batch_size=2, learning_rate=1e-2)
    trainer = QSFTTrainer(model, args, rows, None, TOKENIZER)
    batch = trainer.data_collator([rows[0]])
    stage = trainer.model.eval()
    with torch.no_grad():
        start = [token_states(part, batch) for part in (stage.q, stage.behavior)]
    torch.testing.assert_close(*start)
    trainer.train()
    with torch.no_grad():
        end = [token_states(part, batch) for part in (stage.eval().q, stage.behavior)]
    torch.testing.assert_close(end[1], start[1])  # the reference stands still, its projector too
    assert (end[0] - start[0]).abs().max() > 1e-3
    q = stage.q
    moved = {
        name
        for name, weight in q.named_parameters()
        if name in before and not torch.equal(weight, before[name])
    }
    assert any("lora" in name for name in moved)
    assert any("multi_modal_projector" in name for name in moved)
    assert all("lora" in name or "multi_modal_projector" in name for name in moved)
    policy = QSFTPolicy(separate(stage.behavior), separate(q), TOKENIZER, 2.0, greedy=True)
    policy.save_pretrained(tmp_path / "policy")
    again = QSFTPolicy.from_pretrained(tmp_path / "policy")
    tables = [
        each.candidates([(ASK, False)], ACTIONS, images=[picture("red")])
        for each in (policy, again)
    ]
    np.testing.assert_allclose(tables[0]["Q"], tables[1]["Q"], atol=1e-5)
