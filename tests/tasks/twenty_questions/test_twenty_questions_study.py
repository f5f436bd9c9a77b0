"""Twenty Questions as a study: its objects, its policies, and measures turn by turn."""

import numpy as np
import pytest
import torch
from scipy import stats

from qsft_lite.baselines import TrainedMethod
from qsft_lite.baselines.choosing import GREEDY_BETA, as_options
from qsft_lite.evaluate import Evaluation
from qsft_lite.models import small_model
from qsft_lite.study import changed
from qsft_lite.tasks.guessing import play_games, to_episodes
from qsft_lite.tasks.guessing_study import MEASURED_SEED
from qsft_lite.tasks.twenty_questions.study import (
    PROFILES,
    TwentyQuestionsTask,
    some_objects,
)
from qsft_lite.tasks.twenty_questions.text import NO, START


def task(*changes):
    return TwentyQuestionsTask(changed(PROFILES["smoke"], changes), 0)


def test_objects_come_from_all_over_the_list():
    objects = some_objects(20)
    assert len({thing.name for thing in objects}) == 20
    assert len({thing.category for thing in objects}) >= 12


def test_objects_are_between_one_and_all():
    for count in (0, 159):
        with pytest.raises(ValueError, match="objects must be between 1 and 158"):
            some_objects(count)
    assert [len(some_objects(count)) for count in (1, 40, 158)] == [1, 40, 158]


def test_each_object_is_the_answer_equally_often():
    one = task("test_games=20")
    objects = [start["object"] for start in one.starts(test=True)]
    counts = [objects.count(name) for name in one.env.rules.names]
    assert len(counts) == 6 and sum(counts) == 20 and max(counts) - min(counts) == 1


def test_questions_that_were_asked_before_are_counted():
    one = task()
    first, second = (text for text in one.env.rules.question_texts[:2])
    games = [[first, second, first, first], [second, first]]
    transcripts = [
        {"text": [START, *(text for question in game for text in (question, NO))]} for game in games
    ]
    result = Evaluation(0.0, (0.0, 0.0), np.zeros(2), 0.0, np.array([4, 2]), transcripts, 0)
    assert one.describe(result) == {"questions asked before": pytest.approx(2 / 6)}


@pytest.mark.parametrize("once", [False, True])
def test_who_may_ask_once_asks_no_question_again(once):
    one = task(f"ask_once={once}")
    policy = one.policy(TrainedMethod.cloned(one.model, one.tokenizer), relative_support=0.9)
    asked = [game["text"][1::2] for game in one.play(policy, test=True).transcripts]
    assert all(len(set(game)) == len(game) for game in asked) == once  # chance repeats itself


@pytest.mark.parametrize("score", ["p", "ratio", "paired"])
def test_at_the_greedy_end_of_beta_the_best_score_plays(score):
    one = task()
    own = {"leftover": "paired" if score == "paired" else "dummy"}
    trained = TrainedMethod("q_sft", own, one.model, one.model, one.tokenizer, "", [])
    options = as_options({"beta": GREEDY_BETA, "relative_support": 0.1})
    policy = one.policy(trained, **options, score=score)
    pi = torch.tensor([0.6, 0.25, 0.14, 0.01, 0.0])  # the last one is the dummy
    q = torch.tensor([0.2, 0.5, 0.501, 0.9, 0.0])  # the last but one is outside the support
    p = pi * q
    p[-1] = 1 - p.sum()
    logits = pi.log() + q.logit() if score == "paired" else p.log()
    weights = policy.log_weights([pi.log()[None], logits[None]])
    best = 1 if score == "p" else 2
    assert policy.greedy and weights.argmax() == best


def test_a_cloned_policy_has_a_support():
    one = task()
    trained = TrainedMethod.cloned(one.model, one.tokenizer)
    logits = torch.tensor([[0.5, 0.3, 0.2, 0.0]]).log()
    allowed = {0.0: 3, 0.5: 2, 0.9: 1}
    for support, count in allowed.items():
        policy = one.policy(trained, **{"relative_support": support, "temperature": 0.5})
        weights = policy.log_weights([logits])
        assert torch.isfinite(weights).sum() == count
        assert weights[0, 0] == pytest.approx(2 * np.log(0.5))


@torch.no_grad()
def next_logits(model, row):
    return model(input_ids=torch.tensor([row])).logits[0, -1].double()


def test_networks_are_measured_as_turn_by_turn():
    """Against a loop that reads each moment of each game by itself, with random networks."""
    one = task("objects=20")
    rules, tokenizer, player = one.env.rules, one.tokenizer, one.player(MEASURED_SEED)
    pi, p = (
        small_model(tokenizer, layers=1, width=16, heads=2, context=48, seed=seed)
        for seed in (1, 2)
    )
    for model in (pi, p):  # far from uniform
        model.get_output_embeddings().weight.data.mul_(20)
    prompt = "Yes.\n"
    own = {"leftover": "paired"}
    found = one.measure(TrainedMethod("mc_returns", own, pi, p, tokenizer, prompt, []))

    ids = [tokenizer.convert_tokens_to_ids(text) for text in rules.question_texts]
    games = play_games(rules, player, np.arange(one.settings.measured_games))
    divergences, values, returns, ranks = [], [], [], []
    for game, texts in enumerate(to_episodes(rules, games)["text"]):
        for place in range(1, len(texts), 2):
            text = "".join(texts[:place])
            consistent = rules.consistent(rules.read_history(text))
            behavior = player.probabilities(consistent[None])[0]
            row = [tokenizer.bos_token_id, *tokenizer(prompt + text)["input_ids"]]
            z_pi, z = (next_logits(model, row) for model in (pi, p))
            log_pi = z_pi.log_softmax(-1)[ids].numpy()
            divergences.append((behavior * (np.log(behavior) - log_pi)).sum())
            q = 1 / (1 + (z_pi - z)[ids].exp().numpy())
            values.append(q[rules.question_texts.index(texts[place])])
            returns.append(games.returns[game])
            yes = rules.table[: rules.guesses.start, consistent].mean(1)
            if ((yes > 0) & (yes < 1)).any():
                told = stats.entropy([yes, 1 - yes])
                ranks.append(stats.spearmanr(q[: len(yes)], told).statistic)
    assert found == {
        "KL(pi_beta || pi_phi)": pytest.approx(np.mean(divergences), rel=1e-4),
        "rank correlation with the return": pytest.approx(
            stats.spearmanr(values, returns).statistic, abs=1e-3
        ),
        "of questions, with what they tell": pytest.approx(np.mean(ranks), abs=1e-3),
    }
    assert 0.1 < found["KL(pi_beta || pi_phi)"] and ranks[0] != pytest.approx(np.mean(ranks))
