"""What is left of a model: against sums in plain loops, and the model itself."""

import math

import pytest
import torch

from qsft_lite import models
from qsft_lite.data import start_id
from qsft_lite.study import retention
from qsft_lite.study.retention import measure_retention, passages, probe_pairs

LETTERS = "".join(chr(code) for code in range(33, 127))
TOKENIZER = models.character_tokenizer(LETTERS)


@pytest.fixture(autouse=True)
def few_texts(monkeypatch):
    texts = ["A cat is an animal.", "It rains, and so we stay in."]
    monkeypatch.setattr(retention, "passages", lambda count: texts[:count])


def network(seed):
    return models.small_model(TOKENIZER, layers=1, width=16, heads=2, context=128, seed=seed).eval()


def by_hand(model, ids):
    return [model(torch.tensor([ids[: i + 1]])).logits[0, -1].double() for i in range(len(ids) - 1)]


@torch.no_grad()
def test_text_and_divergence_are_those_of_plain_loops():
    model, pretrained = network(0), network(1)
    losses, divergences = [], []
    for text in retention.passages(2):
        ids = [start_id(TOKENIZER), *TOKENIZER(text).input_ids]
        for place, (z, w) in enumerate(
            zip(by_hand(model, ids), by_hand(pretrained, ids), strict=True)
        ):
            p, reference = z.softmax(0), w.softmax(0)
            losses.append(-math.log(p[ids[place + 1]]))
            divergences.append(float((reference * (reference / p).log()).sum()))
    found = measure_retention(model, pretrained, TOKENIZER, texts=2, pairs=3)
    assert found.text == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    assert found.kl == pytest.approx(sum(divergences) / len(divergences), abs=1e-5)


@torch.no_grad()
def test_a_pair_is_right_where_its_right_end_is_likelier():
    model = network(0)
    found = measure_retention(model, model, TOKENIZER, texts=1)
    assert found.kl == 0
    shares = {}
    for pair in probe_pairs():
        said = []
        for end in (pair.right, pair.wrong):
            start, after = (TOKENIZER(part).input_ids for part in (pair.beginning, end))
            ids = [start_id(TOKENIZER), *start, *after]
            log_p = [z.log_softmax(0)[ids[i + 1]] for i, z in enumerate(by_hand(model, ids))]
            said.append(sum(log_p[-len(after) :]))
        shares.setdefault(pair.kind, []).append(said[0] > said[1])
    assert found.facts == pytest.approx(sum(shares["fact"]) / 24)
    assert found.grammar == pytest.approx(sum(shares["grammar"]) / 24)


def test_pairs_differ_in_their_ends_alone():
    pairs = probe_pairs()
    assert [sum(pair.kind == kind for pair in pairs) for kind in ("fact", "grammar")] == [24, 24]
    assert len({(pair.beginning, pair.right) for pair in pairs}) == 48
    for pair in pairs:
        assert pair.right != pair.wrong and pair.right[0] == pair.wrong[0] == " "
        assert pair.beginning == pair.beginning.strip()


def test_passages_are_prose_and_no_more_than_there_are():
    found = passages(12)
    assert len({*found}) == 12 and all(len(text.split()) == 80 for text in found)
    assert not any("::=" in text or "***" in text for text in found)
    with pytest.raises(ValueError, match="passages, not 100000"):
        passages(100_000)
