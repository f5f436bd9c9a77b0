import json
import math
import os
import random
import shutil
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from qsft_lite.data.transcripts import Transcript
from qsft_lite.models import character_tokenizer, load_model, small_model, word_tokenizer
from qsft_lite.policy import ActionList, CachedPolicy, LastLine, Once, QSFTPolicy

TOKENIZER = character_tokenizer("Wordle:\nabcdefghijklmnopqrstuvwxyz")
START = "Wordle:\n"


def sharp(model):
    """The model with larger weights, so that its distributions are far from uniform."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    return model.eval()


def llama(seed):
    return sharp(small_model(TOKENIZER, layers=2, width=32, heads=2, context=160, seed=seed))


def grouped_llama(seed):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(TOKENIZER),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=160,
    )
    return sharp(LlamaForCausalLM(config))


def gpt2(seed):
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(TOKENIZER),
        n_embd=32,
        n_layer=2,
        n_head=2,
        n_positions=160,
        bos_token_id=1,
        eos_token_id=1,
    )
    return sharp(GPT2LMHeadModel(config))


class FixedLogits(nn.Module):
    """A model whose logits are the same everywhere; it counts its calls."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.as_tensor(logits, dtype=torch.float32))
        self.config = SimpleNamespace(
            vocab_size=len(self.logits),
            num_hidden_layers=0,
            max_position_embeddings=100,
            _attn_implementation="sdpa",
        )
        self.calls = 0

    def forward(self, input_ids, **options):
        self.calls += 1
        return SimpleNamespace(logits=self.logits.expand(*input_ids.shape, -1))


def ids_of(text):
    return TOKENIZER(text).input_ids


def whole_logits(model, ids):
    """Logits (V,) after <bos> and token ids, without any cache."""
    with torch.no_grad():
        ids = torch.tensor([[TOKENIZER.bos_token_id, *ids]])
        return model(ids, use_cache=False).logits[0, -1]


def naive_greedy(policy, ids):
    """Token ids of the greedy action by whole forward passes, in double precision."""
    newline = TOKENIZER.convert_tokens_to_ids("\n")
    action = []
    while newline not in action:
        behavior_logits, q_logits = (
            whole_logits(model, ids + action).double()
            for model in (policy.behavior, policy.q_model)
        )
        log_pi, log_p = behavior_logits.log_softmax(-1), q_logits.log_softmax(-1)
        score = log_p.exp() if policy.score == "p" else (log_p - log_pi).exp().clamp(max=1)
        if policy.score == "paired":
            added = q_logits - behavior_logits + math.log(policy.prior / (1 - policy.prior))
            score = 1 / (1 + (-added).exp())
        weight = log_pi / policy.temperature + policy.beta * score
        weight[:3] = -math.inf
        last = len(action) == policy.max_new_tokens - 1
        action.append(newline if last else int(weight.argmax()))
    return action


# Play


@pytest.mark.parametrize("make", [llama, grouped_llama, gpt2])
@pytest.mark.parametrize("score", ["p", "ratio", "paired"])
def test_cached_play_is_that_of_whole_forward_passes(make, score):
    policy = QSFTPolicy(
        make(0), make(1), TOKENIZER, 8.0, score, greedy=True, temperature=0.7, max_new_tokens=5
    )
    logits = []
    log_weights = policy.log_weights
    policy.log_weights = lambda pair, _: logits.append(pair) or log_weights(pair)
    generator = random.Random(0)
    # Histories as token ids, since an action may be cut into tokens otherwise than its text is.
    histories = [ids_of(START + "a" * n + "\n") for n in (0, 3, 1, 7)]  # ragged from the start
    for turn in range(5):
        logits.clear()
        actions = policy.act([TOKENIZER.decode(ids) for ids in histories])
        naive = [naive_greedy(policy, ids) for ids in histories]
        assert actions == [TOKENIZER.decode(ids) for ids in naive]
        for model, cached in zip(policy.models, logits[0], strict=True):
            whole = torch.stack([whole_logits(model, ids) for ids in histories])
            assert torch.allclose(cached, whole, atol=1e-4, rtol=0)
        histories = [
            history + action + ids_of("b" * generator.randrange(6) + "\n")
            for history, action in zip(histories, naive, strict=True)
        ]
        generator.shuffle(histories)
        if turn == 1:
            histories.pop()  # one ends
        if turn == 2:
            histories[1:1] = [ids_of(START), ids_of(START + "x\n")]  # others begin
        if turn == 3:
            histories[0] = ids_of("W\n")  # and one is replaced


def feedback(generator):
    return " ".join(generator.choice("byg") for _ in range(5)) + "\n"


def test_every_token_of_multi_turn_play_is_computed_once():
    words = [" ".join(word) + "\n" for word in ("crane", "slate", "mummy", "abide")]
    policy = QSFTPolicy(
        llama(0),
        llama(1),
        TOKENIZER,
        4.0,
        max_new_tokens=6,
        constraint=ActionList(TOKENIZER, words),
    )
    generator = random.Random(0)
    histories = [START] * 16
    for _ in range(6):
        actions = policy.act(histories)
        assert set(actions) <= set(words)
        histories = [h + a + feedback(generator) for h, a in zip(histories, actions, strict=True)]
        histories = histories[:-2]  # two games end each turn
    transcript_tokens = policy.transcript_tokens
    # bos and 8 characters, then a guess a turn, and feedback before all turns but the first
    games = [16, 14, 12, 10, 8, 6]
    assert transcript_tokens == 16 * 9 + 6 * sum(games) + 6 * sum(games[1:])
    assert policy.computed_tokens == transcript_tokens - 16  # all but each game's last
    assert policy.computed_tokens <= 1.02 * transcript_tokens


def test_padding_of_ragged_texts_counts_as_computed():
    policy = QSFTPolicy(llama(0), None, TOKENIZER, 0.0, max_new_tokens=1)
    policy.act(["a\n", "a a a\n"])
    assert policy.computed_tokens == 2 * (1 + 4)
    assert policy.transcript_tokens == (1 + 2) + (1 + 4) + 2


def test_the_same_seed_plays_the_same_and_another_one_does_not():
    policy = QSFTPolicy(llama(0), llama(1), TOKENIZER, 1.0, max_new_tokens=6, seed=3)
    first = policy.act([START] * 8)
    assert policy.act([START] * 8) != first
    policy.reset(3)
    assert policy.act([START] * 8) == first
    assert len(set(first)) > 1
    assert (
        QSFTPolicy(llama(0), llama(1), TOKENIZER, 1.0, max_new_tokens=6).act([START] * 8) != first
    )


def test_an_error_leaves_the_policy_usable():
    policy = QSFTPolicy(llama(0), llama(1), TOKENIZER, 4.0, "p", greedy=True, max_new_tokens=4)
    expected = [TOKENIZER.decode(naive_greedy(policy, ids_of(START)))]
    log_weights = policy.log_weights
    calls = []

    def failing(logits, ruled_out):
        calls.append(1)
        if len(calls) == 2:  # in the middle of an action
            raise RuntimeError("interrupted")
        return log_weights(logits, ruled_out)

    policy.log_weights = failing
    with pytest.raises(RuntimeError, match="interrupted"):
        policy.act([START])
    policy.log_weights = log_weights
    assert policy.act([START]) == expected


def test_no_histories_no_actions():
    assert QSFTPolicy(llama(0), None, TOKENIZER, 0.0).act([]) == []


def test_new_weights_play_after_a_reset():
    model = llama(0)
    policy = QSFTPolicy(model, None, TOKENIZER, 0.0, greedy=True, max_new_tokens=6)
    before = policy.act([START])
    model.load_state_dict(llama(1).state_dict())
    policy.reset(0)
    other = QSFTPolicy(llama(1), None, TOKENIZER, 0.0, greedy=True, max_new_tokens=6)
    assert policy.act([START]) == other.act([START]) != before


# What is chosen


LETTERS = character_tokenizer("ab\n")  # <pad> <bos> <dummy> \n space a b " a" " b"
PI = np.array([0.05, 0.05, 0.1, 0.1, 0.1, 0.2, 0.2, 0.1, 0.1])
P = np.array([0.02, 0.03, 0.45, 0.05, 0.05, 0.05, 0.19, 0.01, 0.15])


# Of logits log pi + 3 and log p - 2, and a prior of .99.
PAIRED = 1 / (1 + PI / P * np.exp(5) * 0.01 / 0.99)


@pytest.mark.parametrize(
    ("score", "value"), [("p", P), ("ratio", np.minimum(P / PI, 1)), ("paired", PAIRED)]
)
def test_samples_follow_the_formula(score, value):
    policy = QSFTPolicy(
        FixedLogits(np.log(PI) + 3),  # logits are probabilities up to a constant
        FixedLogits(np.log(P) - 2),
        LETTERS,
        beta=1.5,
        score=score,
        temperature=0.5,
        prior=0.99,
        stop="",  # every token ends an action
        max_new_tokens=1,
    )
    weights = PI**2 * np.exp(1.5 * value)
    weights[:3] = 0  # special tokens and the dummy
    expected = weights / weights.sum()
    samples = 20_000
    counts = Counter(policy.act(["a"] * samples))
    tokens = [LETTERS.decode([i]) for i in range(len(LETTERS))]
    observed = np.array([counts[token] for token in tokens]) / samples
    assert observed[:3].sum() == 0
    assert np.allclose(observed, expected, atol=4.5 * np.sqrt(0.25 / samples))


@pytest.mark.parametrize("beta", [0.0, 2.0])
def test_actions_below_the_support_are_not_played(beta):
    logits = torch.tensor([[0.05, 0.15, 0.2, 0.6], [0.22, 0.23, 0.26, 0.29]]).log()
    other = torch.tensor([[0.7, 0.1, 0.1, 0.1]]).log().expand(2, 4)
    policy = QSFTPolicy(
        FixedLogits(np.log(PI)),
        FixedLogits(np.log(P)),
        LETTERS,
        beta,
        "ratio",
        relative_support=0.3,
    )
    free = QSFTPolicy(FixedLogits(np.log(PI)), FixedLogits(np.log(P)), LETTERS, beta, "ratio")
    weights, unbounded = (one.log_weights([logits, other]) for one in (policy, free))
    assert torch.isneginf(weights).tolist() == [[True, True, False, False], [False] * 4]
    kept = ~torch.isneginf(weights)
    assert torch.equal(weights[kept], unbounded[kept])
    policy.relative_support = 1.0  # the most likely action always remains
    assert (~torch.isneginf(policy.log_weights([logits, other]))).nonzero().tolist() == [
        [0, 3],
        [1, 3],
    ]


def test_refused_actions_are_not_played():
    pi = np.array([0.01, 0.01, 0.01, 0.5, 0.02, 0.25, 0.1, 0.05, 0.05])  # the line ends soon
    policy = QSFTPolicy(FixedLogits(np.log(pi)), None, LETTERS, 0.0, greedy=True, max_new_tokens=3)
    a, b = (LETTERS.decode([i]) for i in (5, 6))
    refused = [(), ("\n",), ("\n", a + "\n"), (a + "\n",)]
    assert policy.act(["b"] * 4, refused) == ["\n", a + "\n", a + a + "\n", "\n"]
    short = QSFTPolicy(
        FixedLogits(np.log(pi)), None, LETTERS, 0.0, greedy=True, stop="", max_new_tokens=1
    )
    assert short.act(["b"] * 3, [("\n",), ("\n", a), ()]) == [a, b, "\n"]


def test_refusing_longer_actions_is_the_policy_given_that_it_plays_none_of_them():
    """Also of first tokens: one whose likely continuations are refused is not written again."""
    samples = 5_000
    policy = QSFTPolicy(
        llama(0),
        llama(1),
        TOKENIZER,
        3.0,
        "ratio",
        temperature=0.5,
        relative_support=0.02,
        max_new_tokens=2,
    )
    free = Counter(policy.act([START] * samples))
    likeliest = [text for text, _ in free.most_common()]
    refused = [likeliest[0], likeliest[2], "\n"]
    left = {text: count for text, count in free.items() if text not in refused}
    total = sum(left.values())
    counts = Counter(policy.act([START] * samples, [refused] * samples))
    assert not set(counts) & set(refused)
    for text in likeliest[:12]:
        expected = left.get(text, 0) / total
        assert abs(counts[text] / samples - expected) < 6 * np.sqrt(0.25 / total)

    # All that the policy writes after one first token, and so within its support, is refused.
    first = TOKENIZER.tokenize(likeliest[0])[0]
    others = [text for text in free if TOKENIZER.tokenize(text)[0] == first]
    again = policy.act([START] * 200, [others] * 200)
    assert not any(TOKENIZER.tokenize(text)[0] == first for text in again)


def test_a_small_rest_after_refused_actions_is_not_lost():
    """After a, 1e-10 is left: much more than b has, which comes next."""
    pi = np.array([0.01, 0.01, 0.01, 0.5, 0.02, 0.25, 0.1, 0.05, 0.05])  # the line ends soon
    policy = QSFTPolicy(
        FixedLogits(np.log(pi)), None, LETTERS, 0.0, temperature=0.03, max_new_tokens=3
    )
    a = LETTERS.decode([5])
    assert policy.act(["b"] * 50, [("\n", a + "\n")] * 50) == [a + a + "\n"] * 50


def test_refused_actions_that_the_constraint_does_not_allow_change_nothing():
    actions = ["ab\n", "ba\n"]
    policy = QSFTPolicy(
        llama(0), None, TOKENIZER, 0.0, max_new_tokens=4, constraint=ActionList(TOKENIZER, actions)
    )
    assert policy.act([START] * 4, [["bb\n", "ab\n", "aab\n"]] * 4) == ["ba\n"] * 4


def test_the_support_is_one_of_what_can_be_written():
    """Whatever is ruled out and likely, something that is not remains."""
    for likely in range(len(LETTERS)):
        pi = np.full(len(LETTERS), 0.01)
        pi[likely] = 0.92
        policy = QSFTPolicy(
            FixedLogits(np.log(pi)), None, LETTERS, 0.0, relative_support=0.5, max_new_tokens=1
        )
        assert policy.act(["a"]) == ["\n"]  # only this ends an action
        short = QSFTPolicy(
            FixedLogits(np.log(pi)),
            FixedLogits(np.log(P)),
            LETTERS,
            2.0,
            relative_support=0.5,
            stop="",
            max_new_tokens=1,
            constraint=ActionList(LETTERS, ["a", "b"]),
        )
        assert short.act(["b"], [["a"]]) == ["b"]


def test_refusing_leaves_the_others_as_they_are():
    policy = QSFTPolicy(
        FixedLogits(np.log(PI)),
        FixedLogits(np.log(P)),
        LETTERS,
        1.5,
        "ratio",
        stop="",
        max_new_tokens=1,
    )
    weights = PI * np.exp(1.5 * np.minimum(P / PI, 1))
    weights[:3] = 0
    refused = 6
    weights[refused] = 0
    samples = 20_000
    text = LETTERS.decode([refused])
    counts = Counter(policy.act(["a"] * samples, [[text]] * samples))
    observed = [counts[LETTERS.decode([i])] / samples for i in range(len(LETTERS))]
    assert np.allclose(observed, weights / weights.sum(), atol=4.5 * np.sqrt(0.25 / samples))


def test_the_ratio_is_clamped_and_survives_probabilities_that_underflow():
    logits = torch.tensor([[0.0, -200.0, -200.0, -300.0]])
    q_logits = torch.tensor([[0.0, -200.0 + math.log(0.5), -50.0, -300.0]])
    models = FixedLogits(PI), FixedLogits(P)
    policy = QSFTPolicy(*models, LETTERS, beta=10.0, score="ratio")
    weights = policy.log_weights([logits, q_logits])
    expected = [0.0 + 10, -200 + 5, -200 + 10, -300 + 10]
    assert torch.allclose(weights, torch.tensor([expected]), atol=1e-3)
    assert weights.dtype == torch.float32


def test_beta_0_is_behavior_cloning_and_does_not_run_the_other_model():
    behavior, q_model = FixedLogits(np.log(PI)), FixedLogits(np.log(P))
    policy = QSFTPolicy(behavior, q_model, LETTERS, beta=0.0, temperature=2.0)
    log_pi = torch.log(torch.tensor(PI, dtype=torch.float32))
    assert torch.allclose(policy.log_weights([log_pi]), log_pi / 2, atol=1e-6)
    policy.act(["a"])
    assert behavior.calls > 0
    assert q_model.calls == 0


def test_an_action_that_does_not_end_is_ended():
    logits = np.zeros(len(LETTERS))
    logits[5] = 100.0  # "a", and nothing else
    policy = QSFTPolicy(FixedLogits(logits), None, LETTERS, 0.0, max_new_tokens=4)
    assert policy.act(["b\n", "b"]) == ["aaa\n", "aaa\n"]


def test_an_action_of_one_word_token():
    tokenizer = word_tokenizer("start\ncrane\nslate\nbygbb\n")
    model = sharp(small_model(tokenizer, layers=1, width=16, heads=2, context=8, seed=0))
    policy = QSFTPolicy(model, None, tokenizer, 0.0, max_new_tokens=1)
    assert all(action.endswith("\n") and len(action) == 6 for action in policy.act(["start\n"] * 9))


def test_a_constraint_restricts_each_token_to_what_may_follow():
    actions = ["a\n", "a b\n", "b\n"]
    policy = QSFTPolicy(
        FixedLogits(np.log(PI)), None, LETTERS, 0.0, constraint=ActionList(LETTERS, actions)
    )
    samples = 10_000
    counts = Counter(policy.act(["a"] * samples))
    # After "a" comes "\n" or " b", each with .1; "a" and "b" have .2 each.
    expected = {"a\n": 0.25, "a b\n": 0.25, "b\n": 0.5}
    assert set(counts) == set(expected)
    for action, share in expected.items():
        assert counts[action] / samples == pytest.approx(share, abs=0.025)


def test_tokens_of_spare_rows_are_never_chosen():
    logits = np.zeros(len(LETTERS) + 4)
    logits[-4:] = 100.0
    logits[3] = 50.0
    assert QSFTPolicy(FixedLogits(logits), None, LETTERS, 0.0).act(["a"]) == ["\n"]


# Values


def test_values_are_those_of_whole_forward_passes():
    policy = QSFTPolicy(llama(0), llama(1), TOKENIZER, 4.0, dummy=2)
    segments = [(START, False), ("c r\n", True), ("b y\n", False)]
    table = policy.values(segments)
    text = "".join(text for text, _ in segments)
    assert "".join(table.token) == text
    assert list(table.is_action) == [False] * 8 + [True] * 3 + [False] * 3
    prefix = []
    for row in table.itertuples():
        token_id = TOKENIZER.convert_tokens_to_ids(row.token)
        pi, p = (whole_logits(m, prefix).double().softmax(-1) for m in policy.models)
        assert row.pi == pytest.approx(pi[token_id].item(), rel=1e-3)
        assert row.p == pytest.approx(p[token_id].item(), rel=1e-3)
        assert row.ratio == pytest.approx((p / pi)[token_id].item(), rel=1e-3)
        assert row.V == pytest.approx(1 - p[2].item(), abs=1e-5)
        prefix.append(token_id)

    plain = QSFTPolicy(policy.behavior, policy.q_model, TOKENIZER, 4.0).values(text)
    assert list(plain.columns) == ["token", "pi", "p", "ratio"]
    assert plain.pi.tolist() == table.pi.tolist()


def test_candidates_agree_with_values():
    policy = QSFTPolicy(llama(0), llama(1), TOKENIZER, 4.0, "ratio")
    actions = ["c r\n", "a\n", "b y g\n"] * 30  # more than are computed at once
    table = policy.candidates(START, actions)
    assert list(table.action) == actions
    for row in table.iloc[-3:].itertuples():
        values = policy.values(START + row.action).iloc[8:]
        assert row.log_pi == pytest.approx(np.log(values.pi).sum(), abs=1e-3)
        assert row.p == pytest.approx(values.p.iloc[-1], rel=1e-3)
        assert pytest.approx(min(values.ratio.iloc[-1], 1), rel=1e-3) == row.Q


def test_candidates_weigh_actions_as_play_does():
    policy = QSFTPolicy(
        FixedLogits(np.log(PI)), FixedLogits(np.log(P)), LETTERS, 1.5, "p", stop="b"
    )
    policy._logits = lambda ids, first, *rest: tuple(  # the fixed logits have no hidden states
        m.logits.expand(len(ids), max(map(len, ids)) - first, -1) for m in policy.models
    )
    [row] = policy.candidates("a", ["a b"]).itertuples()
    pi_hat = PI * np.exp(1.5 * P)
    pi_hat /= pi_hat.sum()
    assert row.log_pi_hat == pytest.approx(np.log(pi_hat[5] * pi_hat[8]), abs=1e-5)
    assert pytest.approx(1.0) == row.Q  # .15 / .1, clamped


@pytest.mark.parametrize("action", ["c r", "c\nr\n", "\n\n"])
def test_candidates_are_whole_actions(action):
    policy = QSFTPolicy(llama(0), llama(1), TOKENIZER, 4.0)
    with pytest.raises(ValueError, match="is no whole action"):
        policy.candidates(START, ["a\n", action])
    lines = ActionList(TOKENIZER, ["a\n", action + "\n"])  # a list's may have several lines
    policy = QSFTPolicy(llama(0), llama(1), TOKENIZER, 4.0, constraint=lines)
    assert len(policy.candidates(START, (text for text in lines.actions))) == 2


# Saving


def test_a_saved_policy_plays_the_same(tmp_path):
    policy = QSFTPolicy(
        llama(0), llama(1), TOKENIZER, 4.0, "ratio", temperature=0.5, dummy=2, max_new_tokens=6
    )
    expected = policy.act([START] * 4)
    folder = tmp_path / "policy"
    policy.save_pretrained(folder)
    loaded = QSFTPolicy.from_pretrained(folder)
    assert loaded.act([START] * 4) == expected
    assert loaded.dummy == 2
    for name, original in (("behavior", policy.behavior), ("q_model", policy.q_model)):
        assert (folder / name / "model.safetensors").exists()
        model, tokenizer = load_model(folder / name)
        assert tokenizer.decode(tokenizer(START).input_ids) == START
        ids = torch.tensor([[1, 5, 6]])
        assert torch.equal(model(ids).logits, original(ids).logits)


def test_saving_replaces_an_older_policy_and_nothing_else(tmp_path):
    folder = tmp_path / "policy"
    QSFTPolicy(llama(0), llama(1), TOKENIZER, 4.0).save_pretrained(folder)
    cloning = QSFTPolicy(llama(0), None, TOKENIZER, 0.0)
    cloning.save_pretrained(folder)
    assert not (folder / "q_model").exists()
    assert QSFTPolicy.from_pretrained(folder).q_model is None
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]

    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter.tex").write_text("dear")
    with pytest.raises(FileExistsError, match="thesis"):
        cloning.save_pretrained(foreign)
    assert (foreign / "chapter.tex").read_text() == "dear"


def test_a_failed_save_leaves_the_older_policy(tmp_path, monkeypatch):
    folder = tmp_path / "policy"
    policy = QSFTPolicy(llama(0), llama(1), TOKENIZER, 4.0)
    policy.save_pretrained(folder)

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(policy.q_model, "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        policy.save_pretrained(folder)
    assert QSFTPolicy.from_pretrained(folder).beta == 4.0
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]
    assert sorted(path.name for path in folder.iterdir()) == ["behavior", "policy.json", "q_model"]


def test_an_interrupted_save_never_leaves_half_of_a_policy(tmp_path, monkeypatch):
    folder = tmp_path / "policy"
    QSFTPolicy(llama(0), llama(1), TOKENIZER, 4.0).save_pretrained(folder)
    new = QSFTPolicy(llama(2), llama(3), TOKENIZER, 5.0)
    replace = os.replace
    for failing in range(5):  # an older model aside and a new one there, twice, and the settings
        left = [failing]

        def interrupted(source, target, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            replace(source, target)

        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", interrupted)
            with pytest.raises(KeyboardInterrupt):
                new.save_pretrained(folder)
        with pytest.raises(FileNotFoundError, match="no policy.json"):
            QSFTPolicy.from_pretrained(folder)
        new.save_pretrained(folder)
        assert QSFTPolicy.from_pretrained(folder).beta == 5.0
        assert len(list(folder.iterdir())) == 3


def test_a_folder_may_hold_more_than_a_policy(tmp_path):
    folder = tmp_path / "policy"
    policy = QSFTPolicy(llama(0), None, TOKENIZER, 0.0)
    policy.save_pretrained(folder)
    (folder / "my_notes.txt").write_text("dear")
    (folder / "pictures").mkdir()
    policy.save_pretrained(folder)
    assert (folder / "my_notes.txt").read_text() == "dear"
    names = ["behavior", "my_notes.txt", "pictures", "policy.json"]
    assert sorted(path.name for path in folder.iterdir()) == names


def test_a_policy_is_saved_where_a_link_or_a_point_leads(tmp_path, monkeypatch):
    policy = QSFTPolicy(llama(0), None, TOKENIZER, 0.0)
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for _ in range(2):
        policy.save_pretrained(tmp_path / "link")
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "target" / "policy.json").exists()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for _ in range(2):
        policy.save_pretrained(".")
        assert QSFTPolicy.from_pretrained(".").beta == 0
    assert {path.name for path in tmp_path.iterdir()} == {"target", "link", "here"}
    (tmp_path / "file").write_text("dear")
    with pytest.raises(FileExistsError, match="file is no folder"):
        policy.save_pretrained(tmp_path / "file")


class Adapted(nn.Module):
    """A model with adapters, as peft makes them: its save_pretrained writes these alone."""

    def __init__(self, base, merged):
        super().__init__()
        self.base, self.merged = base, merged
        self.config = base.config

    def forward(self, *args, **options):
        return self.merged(*args, **options)

    def save_pretrained(self, folder):
        raise AssertionError("the adapters alone")


class LoRA(Adapted):
    def merge_and_unload(self):
        return self.merged


def test_adapters_are_merged_into_what_is_saved(tmp_path):
    base, merged = llama(0), llama(1)
    model = LoRA(base, merged)
    policy = QSFTPolicy(model, None, TOKENIZER, 0.0, max_new_tokens=5)
    expected = policy.act([START] * 4)
    policy.save_pretrained(tmp_path)
    assert QSFTPolicy.from_pretrained(tmp_path).act([START] * 4) == expected
    assert policy.behavior is model


def test_adapters_that_cannot_be_merged_are_refused_before_anything_is_written(tmp_path):
    QSFTPolicy(llama(0), None, TOKENIZER, 0.0).save_pretrained(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    prompt_tuned = QSFTPolicy(llama(0), Adapted(llama(0), llama(1)), TOKENIZER, 4.0)
    with pytest.raises(ValueError, match="Adapted has adapters that cannot be merged"):
        prompt_tuned.save_pretrained(tmp_path)
    injected = llama(0)  # a layer in whose place peft has put one around it
    injected.model.layers[0].mlp.up_proj.base_layer = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="LlamaForCausalLM has adapters"):
        QSFTPolicy(injected, None, TOKENIZER, 0.0).save_pretrained(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_policy_of_before_is_read(tmp_path):
    QSFTPolicy(llama(0), llama(1), TOKENIZER, 4.0).save_pretrained(tmp_path)
    path = tmp_path / "policy.json"
    saved = json.loads(path.read_text())
    assert "support" not in saved and saved.pop("relative_support") == 0.0
    path.write_text(json.dumps({**saved, "support": 0.3}))
    assert QSFTPolicy.from_pretrained(tmp_path).relative_support == 0.3


def test_settings_of_play_can_be_others_at_loading(tmp_path):
    dummy = np.int64(2)
    policy = QSFTPolicy(llama(0), llama(1), TOKENIZER, 4.0, dummy=dummy, stop=["\n", "e"])
    policy.save_pretrained(tmp_path)
    assert QSFTPolicy.from_pretrained(tmp_path).stop == ["\n", "e"]
    others = {"beta": 0.5, "relative_support": 0.2, "temperature": 0.7, "greedy": True, "stop": "e"}
    loaded = QSFTPolicy.from_pretrained(tmp_path, **others, dtype=torch.bfloat16, device="cpu")
    assert {name: getattr(loaded, name) for name in others} == others
    assert loaded.dummy == 2
    assert {p.dtype for m in loaded.models for p in m.parameters()} == {torch.bfloat16}
    assert all(action.endswith("e") for action in loaded.act([START] * 3))
    with pytest.raises(TypeError, match="No settings of a policy: heat"):
        QSFTPolicy.from_pretrained(tmp_path, heat=2.0)
    with pytest.raises(ValueError, match="temperature must be"):
        QSFTPolicy.from_pretrained(tmp_path, temperature=0.0)


def test_a_policy_is_loaded_onto_a_device(tmp_path, monkeypatch):
    QSFTPolicy(llama(0), llama(1), TOKENIZER, 4.0).save_pretrained(tmp_path)
    generator, asked = torch.Generator, []
    monkeypatch.setattr(torch, "Generator", lambda device: asked.append(device) or generator())
    loaded = QSFTPolicy.from_pretrained(tmp_path, device="meta")  # one that every machine has
    assert {p.device.type for m in loaded.models for p in m.parameters()} == {"meta"}
    assert [device.type for device in asked] == ["meta"]
    stops = loaded._stops
    masks = [stops.special, stops.never, stops.ends, *stops._last, *stops._beyond.values()]
    assert {mask.device.type for mask in masks} == {"meta"}


def test_a_policy_of_an_older_version_loads(tmp_path):
    QSFTPolicy(llama(0), None, TOKENIZER, 0.0).save_pretrained(tmp_path)
    settings = {"beta": 0.0, "score": "ratio", "greedy": True, "stop": "\n", "max_new_tokens": 7}
    (tmp_path / "policy.json").write_text(json.dumps(settings))
    assert QSFTPolicy.from_pretrained(tmp_path).max_new_tokens == 7


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("policy.json", b"{"),
        ("policy.json", b"[]"),
        ("policy.json", b"{}"),
        ("policy.json", b"\xff"),
        ("policy.json", b"[" * 100_000),
        ("policy.json", b'{"beta": 1, "heat": 2}'),
        ("policy.json", None),
        ("q_model/config.json", b"{"),
        ("q_model/tokenizer.json", b"{}"),
        ("behavior/model.safetensors", b"half"),
        ("behavior/model.safetensors", b"\x80\x04\x95"),
        ("behavior/model.safetensors", None),
    ],
)
def test_a_damaged_file_of_a_policy_is_named(tmp_path, file, content):
    QSFTPolicy(llama(0), llama(1), TOKENIZER, 4.0).save_pretrained(tmp_path)
    (tmp_path / file).unlink()
    if content is None:
        (tmp_path / file).mkdir()
    else:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=str(tmp_path / file)):
        QSFTPolicy.from_pretrained(tmp_path)


def test_models_of_two_tokenizers_are_no_policy(tmp_path):
    QSFTPolicy(llama(0), llama(1), TOKENIZER, 4.0).save_pretrained(tmp_path / "one")
    other = character_tokenizer("Wordle:\nabcdefghijklmnopqrstuvwxyZ")
    QSFTPolicy(llama(0), None, other, 0.0).save_pretrained(tmp_path / "two")
    shutil.rmtree(tmp_path / "one" / "q_model")
    shutil.copytree(tmp_path / "two" / "behavior", tmp_path / "one" / "q_model")
    with pytest.raises(ValueError, match="different tokenizers"):
        QSFTPolicy.from_pretrained(tmp_path / "one")


def test_a_folder_without_a_policy_or_with_bad_settings_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="policy.json"):
        QSFTPolicy.from_pretrained(tmp_path)
    folder = tmp_path / "policy"
    QSFTPolicy(llama(0), None, TOKENIZER, 0.0).save_pretrained(folder)
    (folder / "policy.json").write_text(json.dumps({"beta": -1}))
    with pytest.raises(ValueError, match="policy.json: beta must be"):
        QSFTPolicy.from_pretrained(folder)


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": -1.0}, "beta"),
        ({"beta": math.nan}, "beta"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"temperature": math.inf}, "temperature"),
        ({"relative_support": math.nan}, "relative_support"),
        ({"greedy": "no"}, "greedy must be True or False"),
        ({"max_new_tokens": 2.5}, "max_new_tokens must be a whole number"),
        ({"seed": None}, "seed must be a whole number"),
        ({"dummy": 10**6}, "dummy must be a token id below 9"),
        ({"dummy": "x"}, "dummy must be a whole number"),
        ({"stop": []}, "stop must be"),
        ({"stop": ["\n", 3]}, "stop must be"),
        ({"stop": 3}, "stop must be"),
        ({"score": "q"}, "score must be one of .*paired"),
        ({"score": "paired", "prior": 1.0}, "prior must lie strictly between 0 and 1, not 1.0"),
        ({"score": "paired", "prior": "returns"}, "prior must lie .* not 'returns'"),
        ({"relative_support": 1.5}, "relative_support"),
        ({"q_model": None}, "q_model"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"stop": "!"}, "stop text '!'"),
        ({"q_model": FixedLogits(np.zeros(12))}, "add_dummy"),
    ],
)
def test_settings_that_make_no_policy_are_refused(options, message):
    settings = {"q_model": FixedLogits(P), "beta": 1.0, **options}
    with pytest.raises(ValueError, match=message):
        QSFTPolicy(FixedLogits(PI), tokenizer=LETTERS, **settings)


def test_a_text_that_the_tokenizer_does_not_know_is_shown():
    policy = QSFTPolicy(FixedLogits(PI), None, LETTERS, 0.0)
    with pytest.raises(ValueError, match="'abc'"):
        policy.act(["ab", "abc"])


def test_an_episode_longer_than_the_context_is_refused():
    policy = QSFTPolicy(llama(0), None, TOKENIZER, 0.0)
    with pytest.raises(ValueError, match="161 tokens, but the models' context is 160"):
        policy.act(["a" * 160])


def test_logits_that_are_not_numbers_are_refused():
    policy = QSFTPolicy(FixedLogits(np.full(9, np.nan)), None, LETTERS, 0.0)
    with pytest.raises(FloatingPointError, match="row 0"):
        policy.act(["a"])


def test_a_constraint_that_does_not_end_in_time_is_refused():
    options = {"constraint": ActionList(LETTERS, ["abab\n"]), "max_new_tokens": 3}
    with pytest.raises(ValueError, match="max_new_tokens=3"):
        QSFTPolicy(FixedLogits(PI), None, LETTERS, 0.0, **options).act(["a"])
    with pytest.raises(ValueError, match="empty"):
        ActionList(LETTERS, [])


def test_values_need_a_q_model():
    policy = QSFTPolicy(llama(0), None, TOKENIZER, 0.0)
    with pytest.raises(ValueError, match="no q_model"):
        policy.values(START)
    with pytest.raises(ValueError, match="at least one action"):
        policy.candidates(START, [])


def test_the_last_line_alone_is_shown():
    class Echo:
        seed = None

        def reset(self, seed):
            self.seed = seed

        def act(self, histories, refused):
            pairs = zip(histories, refused, strict=True)
            return [f"<{history}>{' '.join(texts)}" for history, texts in pairs]

    policy = LastLine(Echo())
    policy.reset(3)
    assert policy.policy.seed == 3
    assert policy.act(["a\n", "a b\nc\nd e\n"]) == ["<a\n>", "<d e\n>"]
    # Of four turns the last two changed nothing; what was played there long ago may be played.
    history = "a\nu\nb\nv\na\nw\na\nx\na\n"
    assert policy.act([history, "a\nu\nb\n"]) == ["<a\n>x\n w\n", "<b\n>"]


def test_what_was_played_is_refused_and_nothing_else():
    class Echo:
        def act(self, histories, refused, images):
            return [" ".join(texts) for texts in refused]

    begun = [("a\n", False), ("b\n", True), ("a\n", False)]  # "a" is no action
    later = [*begun, ("c\n", True), ("d\n", False)]
    policy = Once(Echo())
    assert policy.act([begun[:1], Transcript(begun), later]) == ["", "b\n", "b\n c\n"]
    with pytest.raises(TypeError, match="does not say which parts were actions: 'a"):
        policy.act(["a\nb\n"])


def test_the_base_class_leaves_the_weights_to_others():
    policy = CachedPolicy([FixedLogits(PI)], LETTERS)
    with pytest.raises(NotImplementedError):
        policy.act(["a"])
