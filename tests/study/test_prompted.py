"""Prompted models: a row each for ReAct and for acting alone, and what is refused."""

import dataclasses
import json

import pytest
import torch
from sample_tokenizers import byte_level

from qsft_lite.models import small_model
from qsft_lite.study import module_of
from qsft_lite.study.prompted import main, play_prompted


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random model with a tokenizer of bytes, and room for the prompts."""
    path, tokenizer = tmp_path_factory.mktemp("model"), byte_level(["some text"])
    model = small_model(tokenizer, layers=1, width=16, heads=2, context=30_000, seed=0)
    with torch.no_grad():  # a line ends soon
        model.lm_head.weight[tokenizer.convert_tokens_to_ids("Ċ")] *= 3
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.mark.parametrize("task", ["webshop", "alfworld"])
def test_each_is_played_on_the_test_games_in_the_originals_words(
    task, folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("QSFT_RESULTS", str(tmp_path))
    monkeypatch.setenv("QSFT_COMMAND", "")  # so that what main sets is taken back
    monkeypatch.delenv("QSFT_COMMAND")
    monkeypatch.setattr(module_of("alfworld"), "PROFILES", short_games())
    said = []
    monkeypatch.setattr(
        "qsft_lite.baselines.react.ReActPolicy.act",
        lambda self, histories: said.extend(histories) or ["click[buy]\n"] * len(histories),
    )
    assert main([task, "--model", folder, "--games", "3"]) == 0
    [path] = tmp_path.glob("*.json")
    recorded = json.loads(path.read_text())
    command = f"python -m qsft_lite.study.prompted {task} --model {folder} --games 3"
    assert recorded["command"] == command
    rows = recorded["tables"][f"{task}_prompted"]
    assert [row["method"] for row in rows] == ["ReAct", "Act only"]
    assert all(row["games"] == 3 and row["score"]["mean"] == 0 for row in rows)
    assert all(row["invalid actions"] > 0.5 for row in rows)
    begins = {"webshop": "WebShop [SEP] Instruction:", "alfworld": "-= Welcome to TextWorld"}
    assert {"".join(text)[: len(begins[task])] for text in said} == {begins[task]}
    if task == "alfworld":  # not the bathrooms alone
        assert not all("toilet" in "".join(text) for text in said)
    assert recorded["name"] == f"{task}_prompted"
    assert recorded["settings"]["model"] == folder


def short_games():
    profiles = module_of("alfworld").PROFILES
    return {name: dataclasses.replace(one, longest_game=3) for name, one in profiles.items()}


def test_what_cannot_be_played_is_refused(folder, capsys, monkeypatch):
    with pytest.raises(ValueError, match="wordle has no prompts"):
        play_prompted("wordle", folder, 2)
    with pytest.raises(ValueError, match="games must be at least 2"):
        play_prompted("webshop", folder, 1)
    monkeypatch.setenv("QSFT_COMMAND", "")  # which the command line sets for good
    assert main(["webshop", "--model", "no/such folder", "--games", "2"]) == 2
    assert "no/such folder" in capsys.readouterr().err
