"""Trainings from a pretrained model, with a tiny network in the place of SmolLM2."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from places import ROOT

from qsft_lite.models import character_tokenizer, small_model
from qsft_lite.study import retention
from qsft_lite.study.tables import interval
from qsft_lite.tasks.twenty_questions import pretrained as study

pytest.importorskip("peft")

LETTERS = "".join(chr(code) for code in range(33, 127))
PLAN = study.Plan(model="tiny", rank=4, episodes=24, asked=10, batch_rows=4, row_tokens=128)


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path):
    """A tiny pretrained model by letters, whatever is asked for."""
    tokenizer = character_tokenizer(LETTERS)
    model = small_model(tokenizer, layers=1, width=16, heads=2, context=512, seed=0).eval()
    monkeypatch.setattr(study, "load_model", lambda name: (model, tokenizer))
    monkeypatch.setattr(study, "smollm2", lambda: (model, tokenizer))
    monkeypatch.setattr(retention, "passages", lambda count: ["It rains."])  # of known letters
    return model


def test_all_methods_are_trained_and_measured(tiny, tmp_path, capsys):
    rows = [
        {"name": "LoRA", **study.run_training(method, PLAN, 0, tmp_path)} for method in study.ROWS
    ]
    for row in rows:
        assert len(row["right_unseen"]) == PLAN.asked and set(row["right_seen"]) <= {0, 0.5, 1}
        assert ("error_unseen" in row) == (row["method"] not in ("none", "bc", "filtered_bc"))
        assert row["kl"] > -1e-6 and row["text"] > 0
        assert row["nats_unseen"] > 0 and 0 < row["mass_unseen"] < 1
    again = {"name": "LoRA", **study.run_training("ilql", PLAN, 0, tmp_path)}
    assert again == json.loads(json.dumps(rows[-1]))  # read, not trained
    next(tmp_path.glob("ilql_0_*.json")).unlink()
    redone = study.run_training("ilql", PLAN, 0, tmp_path)
    same = {name: value for name, value in redone.items() if name != "seconds"}
    assert same.items() <= rows[-1].items()

    table = study.table_of(rows)
    assert table[0]["method"] == "no training" and rows[0]["kl"] == 0
    assert all(0 <= line["right, unseen objects"]["mean"] <= 1 for line in table)


def test_a_plan_that_changed_is_trained_again(tmp_path, capsys):
    study.run_training("bc", PLAN, 0, tmp_path)
    other = dataclasses.replace(PLAN, rank=0)
    assert study.run_training("bc", other, 0, tmp_path)["plan"]["rank"] == 0


def test_tuning_never_meets_an_object_of_the_test():
    tests = {thing.name for thing in study.objects_of(PLAN)[1]}
    learned, validation = study.objects_of(dataclasses.replace(PLAN, tuning=True))
    names = [thing.name for thing in [*learned, *validation]]
    assert learned and validation and len(set(names)) == len(names) and not tests & set(names)


def test_a_new_head_says_the_prior_of_what_was_never_taken():
    whole, tokenizer = study.begin_with(PLAN, 0)
    model = study.with_adapters(whole, 4, 0)
    data = study.recorded_choices(PLAN, tokenizer, 0)
    clone = study.train_method("bc", model, tokenizer, data, PLAN, 0)
    head = study.train_method("q_sft_new_head", clone.behavior, tokenizer, data, PLAN, 0)
    taken = {
        token
        for ids, mask in zip(data["input_ids"], data["action_mask"], strict=True)
        for token, action in zip(ids, mask, strict=True)
        if action
    }
    never = [token for token in range(len(tokenizer)) if token not in taken]
    assert not head.values.output.weight[never].any()
    assert head.values.output.weight[sorted(taken)].any()
    [values] = head.values_of([[1, 5, 6]], [never])[1]
    assert np.allclose(values, 0.5)


def test_the_adapters_leave_the_pretrained_weights_and_can_be_switched_off():
    whole, tokenizer = study.begin_with(PLAN, 0)
    before = {name: weight.clone() for name, weight in whole.named_parameters()}
    data = study.recorded_choices(PLAN, tokenizer, 0)
    model = study.with_adapters(whole, 4, 0)
    ours = study.train_method("q_sft", model, tokenizer, data, PLAN, 0)
    assert all(torch.equal(weight, before[name]) for name, weight in whole.named_parameters())
    row = torch.tensor([[1, 5, 6, 7]])
    with torch.no_grad():
        expected = whole(row).logits
        assert not torch.allclose(ours.values(row).logits, expected)
        with ours.values.disable_adapter():
            assert torch.equal(ours.values(row).logits, expected)


def test_few_data_are_met_more_often_and_the_test_is_one_for_all():
    trainings = study.trainings_of("low_data")
    assert {plan.asked for _, _, plan in trainings} == {study.Plan().asked}
    met = [plan.episodes * plan.passes for name, _, plan in trainings if name.startswith("Smol")]
    assert met == sorted(met) and met[0] >= 100
    tests = study.asked_of(PLAN)
    assert tests == study.asked_of(PLAN) and tests["seen"] != tests["unseen"]


@pytest.mark.parametrize("kind", ["tune", "retention", "all_weights", "low_data", "sizes"])
def test_each_row_of_a_table_has_a_name_of_its_own_and_tuning_is_for_tuning_alone(kind):
    trainings = study.trainings_of(kind)
    assert len({(name, method) for name, method, _ in trainings}) == len(trainings)
    assert {plan.tuning for _, _, plan in trainings} == {kind == "tune"}


def test_differences_are_paired_by_seed_and_choice():
    def row(method, seed, right):
        same = {"name": "LoRA", "weights": 1, "nats_unseen": 1.0, "seconds": 1.0}
        return {**same, "method": method, "seed": seed, "right_seen": right, "right_unseen": right}

    rows = [row("q_sft", 0, [1, 1, 0, 1]), row("q_sft", 1, [1, 0, 1, 1])]
    theirs = {1: [0, 0, 1, 1], 0: [1, 0, 0, 1]}
    rows += [row("filtered_bc", seed, right) for seed, right in theirs.items()]
    ours, filtered = study.table_of(rows)
    # Right where the other is not: the second choice of seed 0, the first of seed 1.
    difference = interval(np.array([[0, 1, 0, 0], [1, 0, 0, 0]]))
    assert ours["unseen, less filtered cloning"] == difference and difference["mean"] == 0.25
    assert filtered["unseen, less filtered cloning"] is None
    assert "unseen, less no training" not in ours  # no such row, so no column


def test_recorded_tables_are_those_of_their_rows_and_plans():
    paths = sorted((ROOT / "data/results").glob("pretrained_*.record.json"))
    assert len(paths) >= 5
    for path in paths:
        result = json.loads(path.read_text(encoding="utf-8"))
        rows = result["raw"]["rows"]
        assert result["tables"][result["name"]] == study.table_of(rows), path.name
        trained = {(row["name"], row["method"]): row["plan"] for row in rows}
        trainings = study.trainings_of(result["name"].removeprefix("pretrained_"))
        plans = {(name, key): dataclasses.asdict(plan) for name, key, plan in trainings}
        assert trained == plans, path.name
