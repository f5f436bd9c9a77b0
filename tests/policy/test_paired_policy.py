"""Play and values of the paired form: q = sigmoid(z_theta - z_phi + c), by hand."""

import json
import math

import numpy as np
import pytest
import torch
from test_policy import LETTERS, START, TOKENIZER, FixedLogits, llama, whole_logits

from qsft_lite.data import RewardScale
from qsft_lite.models import NewHead
from qsft_lite.policy import QSFTPolicy

SCALE = RewardScale(-6.0, 0.0)
SEGMENTS = [(START, False), ("c r\n", True), ("b y\n", False)]


def q_model(kind: str):
    if kind == "logits":
        return llama(1)
    head = NewHead.on(llama(1), seed=2).eval()
    torch.manual_seed(0)
    torch.nn.init.normal_(head.output.weight)
    return head


def paired(kind: str = "logits", beta: float = 4.0, **options) -> QSFTPolicy:
    return QSFTPolicy(llama(0), q_model(kind), TOKENIZER, beta, "paired", **options)


def value(policy, behavior_logit: float, q_logit: float) -> float:
    """The formula, of single logits."""
    reference = 0.0 if isinstance(policy.q_model, NewHead) else behavior_logit
    odds = policy.prior / (1 - policy.prior)
    return 1 / (1 + math.exp(reference - q_logit) / odds)


@pytest.mark.parametrize("kind", ["logits", "head"])
def test_weights_by_the_formula(kind):
    policy = paired(kind, beta=3.0, prior=0.2, temperature=0.5, relative_support=0.1)
    rng = np.random.default_rng(0)
    behavior, q = rng.normal(size=(2, 5, 12)) * 3
    behavior[:, 4] = -np.inf
    q[1, 4] = q[2, 5] = -np.inf
    found = policy.log_weights([torch.tensor(each) for each in (behavior, q)])
    assert found.dtype == torch.float32 and not found.isnan().any()
    for row in range(5):
        pi = np.exp(behavior[row]) / np.exp(behavior[row]).sum()
        for a in range(12):
            if pi[a] < 0.1 * pi.max():
                assert found[row, a] == -math.inf
                continue
            expected = math.log(pi[a]) / 0.5 + 3.0 * value(policy, behavior[row, a], q[row, a])
            assert found[row, a].item() == pytest.approx(expected, abs=1e-5)


def test_what_the_behavior_rules_out_is_never_played_and_worth_nothing():
    behavior, q = np.zeros(9), np.zeros(9)
    behavior[5:7] = -np.inf
    q[6:] = [-np.inf, 40.0, 60.0]
    options = {"greedy": True, "stop": "", "max_new_tokens": 1}
    policy = QSFTPolicy(FixedLogits(behavior), FixedLogits(q), LETTERS, 9.0, "paired", **options)
    assert policy.act(["a"]) == [LETTERS.decode([7])]  # 7 and 8 are worth 1, as float32 has it
    found = policy._action_values([torch.tensor(behavior), torch.tensor(q)])
    assert found.tolist() == [0.5] * 5 + [0.0, 0.0, 1.0, 1.0]


def test_values_that_are_not_numbers_are_refused_at_play():
    q = FixedLogits(np.full(9, np.nan))
    policy = QSFTPolicy(FixedLogits(np.zeros(9)), q, LETTERS, 1.0, "paired")
    with pytest.raises(FloatingPointError, match="row 0"):
        policy.act(["a"])


# Values


@pytest.mark.parametrize("kind", ["logits", "head"])
def test_values_of_a_transcript(kind):
    policy = paired(kind, prior=0.3, scale=SCALE)
    table = policy.values(SEGMENTS)
    columns = ["token", "is_action", "pi", "Q", "Q_task", "V", "V_task"]
    assert list(table.columns) == columns
    assert list(table.is_action) == [False] * 8 + [True] * 3 + [False] * 3
    prefix = []
    for row in table.itertuples():
        token = TOKENIZER.convert_tokens_to_ids(row.token)
        behavior, q = (
            whole_logits(m, prefix).double().numpy() for m in (policy.behavior, policy.q_model)
        )
        pi = np.exp(behavior - behavior.max())
        pi /= pi.sum()
        qs = [value(policy, *logits) for logits in zip(behavior, q, strict=True)]
        assert row.pi == pytest.approx(pi[token], abs=1e-4)
        assert pytest.approx(qs[token], abs=1e-4) == row.Q
        assert pytest.approx(sum(p * each for p, each in zip(pi, qs, strict=True)), abs=1e-4) == (
            row.V
        )
        assert row.Q_task == pytest.approx(6 * row.Q - 6) and row.V_task == pytest.approx(
            6 * row.V - 6
        )
        prefix.append(token)
    plain = paired(kind, prior=0.3).values("".join(text for text, _ in SEGMENTS))
    assert list(plain.columns) == ["token", "pi", "Q", "V"]
    assert plain.Q.tolist() == table.Q.tolist()


@pytest.mark.parametrize("kind", ["logits", "head"])
def test_candidates_are_worth_what_their_last_token_is(kind):
    policy = paired(kind, beta=2.0, prior=0.3, scale=SCALE, relative_support=0.1)
    actions = ["c r\n", "a\n", "b y g\n"] * 30  # more than are computed at once
    table = policy.candidates(START, actions)
    assert list(table.columns) == ["action", "log_pi", "log_pi_hat", "in_support", "Q", "Q_task"]
    supported = []
    for row in table.iloc[-3:].itertuples():
        values = policy.values(START + row.action).iloc[8:]
        assert pytest.approx(values.Q.iloc[-1], abs=1e-4) == row.Q
        assert row.Q_task == pytest.approx(6 * row.Q - 6)
        assert row.log_pi == pytest.approx(np.log(values.pi).sum(), abs=1e-3)
        log_pi_hat, ids = 0.0, TOKENIZER(START + row.action).input_ids
        for at in range(8, len(ids)):
            logits = [whole_logits(m, ids[:at]) for m in (policy.behavior, policy.q_model)]
            log_pi_hat += policy.log_weights(logits).log_softmax(-1)[ids[at]].item()
        assert row.log_pi_hat == pytest.approx(log_pi_hat, abs=1e-3)
        assert row.in_support == (log_pi_hat > -math.inf)
        supported.append(row.in_support)
    everything = paired(kind, beta=2.0, prior=0.3).candidates(START, actions[:3])
    assert everything.in_support.all() and not all(supported)
    np.testing.assert_allclose(everything.Q, table.Q[:3], atol=1e-5)


# Saving


@pytest.mark.parametrize("kind", ["logits", "head"])
def test_a_saved_policy_keeps_what_its_values_mean(tmp_path, kind):
    said = {"prior": 0.2, "scale": SCALE, "gamma": 0.9, "data_hash": "ab12"}
    policy = paired(kind, **said, temperature=0.5, max_new_tokens=6, relative_support=0.05)
    expected = policy.act([START] * 4)
    policy.save_pretrained(tmp_path)
    loaded = QSFTPolicy.from_pretrained(tmp_path)
    assert {name: getattr(loaded, name) for name in said} == said
    assert loaded.score == "paired" and isinstance(loaded.q_model, NewHead) == (kind == "head")
    assert loaded.act([START] * 4) == expected
    one, other = (each.values(SEGMENTS) for each in (policy, loaded))
    assert one.equals(other)
    assert (tmp_path / "q_model" / "heads.safetensors").exists() == (kind == "head")
    sharper = QSFTPolicy.from_pretrained(tmp_path, beta=64.0, prior=0.7)
    assert (sharper.beta, sharper.prior, sharper.gamma) == (64.0, 0.7, 0.9)


@pytest.mark.parametrize("kind", ["logits", "head"])
def test_the_prior_comes_with_the_network(tmp_path, kind):
    network = q_model(kind)
    network.config.q_sft_prior = 0.25
    policy = QSFTPolicy(llama(0), network, TOKENIZER, 1.0, "paired")
    assert policy.prior == 0.25
    policy.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "policy.json").read_text())
    assert settings["prior"] == 0.25
    older = {name: settings[name] for name in ("beta", "score", "greedy", "stop")}
    (tmp_path / "policy.json").write_text(json.dumps(older))
    loaded = QSFTPolicy.from_pretrained(tmp_path)
    assert loaded.prior == 0.25 and (loaded.scale, loaded.gamma, loaded.data_hash) == (None,) * 3
    assert paired().prior == 0.5  # where nothing says otherwise


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prior": 1.5}, "policy.json: prior must lie strictly between 0 and 1, not 1.5"),
        ({"prior": "returns"}, "policy.json: prior must lie strictly"),
        ({"score": "pairs"}, "policy.json: score must be one of .*paired, not 'pairs'"),
        ({"scale": {"low": 0, "height": 1}}, "policy.json: .*height"),
    ],
)
def test_settings_that_mean_no_value_are_named(tmp_path, settings, message):
    paired().save_pretrained(tmp_path)
    path = tmp_path / "policy.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    with pytest.raises(ValueError, match=message):
        QSFTPolicy.from_pretrained(tmp_path)


def test_a_damaged_head_is_named(tmp_path):
    paired("head").save_pretrained(tmp_path)
    (tmp_path / "q_model" / "heads.safetensors").write_bytes(b"half")
    with pytest.raises(ValueError, match="q_model/heads.safetensors cannot be read"):
        QSFTPolicy.from_pretrained(tmp_path)


def test_a_head_plays_in_half_precision(tmp_path):
    paired("head", max_new_tokens=3).save_pretrained(tmp_path)
    loaded = QSFTPolicy.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert len(loaded.act([START] * 3)) == 3
    assert loaded.values(SEGMENTS).Q.between(0, 1).all()


def test_without_a_score_the_form_that_the_network_was_trained_by_is_taken():
    trained, older = q_model("logits"), q_model("logits")
    trained.config.q_sft_prior = 0.25
    found = QSFTPolicy(llama(0), trained, TOKENIZER, 1.0)
    assert (found.score, found.prior) == ("paired", 0.25)
    assert QSFTPolicy(llama(0), trained, TOKENIZER, 1.0, prior=0.5).prior == 0.5
    assert QSFTPolicy(llama(0), older, TOKENIZER, 1.0).score == "ratio"
    assert QSFTPolicy(llama(0), None, TOKENIZER, 0.0).score == "ratio"
