"""Whole actions asked in one pass: the same as each of them alone."""

import numpy as np
import pytest
import torch
from small_games import agent_policy, questions_policy, wordle_policy

from qsft_lite.baselines.heads import ActionValues
from qsft_lite.baselines.trained import ClonedPolicy, ValuePolicy
from qsft_lite.envs import make
from qsft_lite.models import NewHead
from qsft_lite.policy import QSFTPolicy
from qsft_lite.policy.whole_actions import ask_actions

HISTORY = [("Wordle:\n", False), ("c h a i r\n", True), ("b b y b b\n", False)]
WORDS = [f"{' '.join(word)}\n" for word in ("about", "there", "later", "tying")]


@pytest.fixture(scope="module")
def letters():
    """Wordle by letters: ten tokens an action."""
    return wordle_policy("letters")[0]


def agree(found, expected):
    np.testing.assert_allclose(found["pi"], np.exp(expected["log_pi"]), rtol=1e-3)
    np.testing.assert_allclose(found["pi_hat"], np.exp(expected["log_pi_hat"]), rtol=1e-3)
    np.testing.assert_allclose(found["Q"], expected["Q"], rtol=1e-3, atol=1e-6)
    assert found["action"].tolist() == expected["action"].tolist()


@pytest.mark.parametrize("score", ["paired", "ratio", "p"])
@pytest.mark.parametrize("beta", [0.0, 5.0])
def test_they_are_the_candidates_of_q_sft(letters, score, beta):
    prior = {"prior": 0.5} if score == "paired" else {}
    policy = QSFTPolicy(letters.behavior, letters.q_model, letters.tokenizer, beta, score, **prior)
    agree(ask_actions(policy, HISTORY, WORDS), policy.candidates(HISTORY, WORDS))


def test_actions_of_one_token_and_of_several():
    policy, rules = questions_policy()
    agree(
        ask_actions(policy, [], rules.question_texts[:5]),
        policy.candidates([], rules.question_texts[:5]),
    )
    policy = agent_policy(make("alfworld", format="short"))
    history = [("heat potato sinkbasin : fridge1 shelf1\n", False)]
    actions = ["look\n", "go fridge1\n", "go shelf1\n", "take mug2 shelf1\n"]
    agree(ask_actions(policy, history, actions), policy.candidates(history, actions))


def test_a_new_head_is_read_as_when_it_plays(letters):
    head = NewHead.on(letters.behavior, seed=3)
    policy = QSFTPolicy(letters.behavior, head, letters.tokenizer, 2.0, "paired", prior=0.4)
    agree(ask_actions(policy, HISTORY, WORDS), policy.candidates(HISTORY, WORDS))


def alone(model, policy, action):
    """Scores of a model for each token of an action by itself, and the tokens."""
    ids = policy._read([*HISTORY, (action, True)]).ids
    count = len(policy.tokenizer(action)["input_ids"])
    with torch.no_grad():
        scores = model(input_ids=torch.tensor([ids[:-1]])).logits[0, -count:].double()
    return scores, ids[-count:]


def test_a_clone_has_no_values(letters):
    policy = ClonedPolicy(letters.behavior, letters.tokenizer, temperature=0.5)
    found = ask_actions(policy, HISTORY, WORDS)
    assert found.columns.tolist() == ["action", "pi", "pi_hat"]
    for row in found.itertuples():
        scores, ids = alone(policy.models[0], policy, row.action)
        pi = scores.log_softmax(-1)[range(len(ids)), ids].sum().exp()
        colder = (scores / 0.5).log_softmax(-1)[range(len(ids)), ids].sum().exp()
        assert row.pi == pytest.approx(float(pi), rel=1e-3)
        assert row.pi_hat == pytest.approx(float(colder), rel=1e-3)


def test_values_of_heads_are_those_of_the_last_token(letters):
    values = ActionValues.on(letters.behavior, seed=1).eval()
    for head in values.q_heads:
        torch.nn.init.normal_(head[-1].weight, std=0.1)
    policy = ValuePolicy(letters.behavior, values, letters.tokenizer, 2.0)
    for row in ask_actions(policy, HISTORY, WORDS).itertuples():
        scores, ids = alone(values, policy, row.action)
        assert row.Q == pytest.approx(float(scores[-1, ids[-1]]), rel=1e-3, abs=1e-5)


def test_bad_input_is_named(letters):
    with pytest.raises(ValueError, match="at least one action"):
        ask_actions(letters, HISTORY, [])
    with pytest.raises(ValueError, match="'a b o u t' is no whole action"):
        ask_actions(letters, HISTORY, ["a b o u t"])
    with pytest.raises(ValueError, match="context"):
        ask_actions(letters, HISTORY * 10, WORDS)
