"""The parts of the baselines: losses against plain loops, heads, data, and policies at play."""

import math

import datasets
import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from qsft_lite import baselines, data
from qsft_lite.baselines import choosing, distilling, losses
from qsft_lite.baselines import episodes as episode_tools
from qsft_lite.baselines.heads import ActionValues, HeadStage
from qsft_lite.baselines.trained import ClonedPolicy, ValuePolicy
from qsft_lite.evaluate import evaluate
from qsft_lite.models import NewHead, add_dummy, output_head, small_model, word_tokenizer
from qsft_lite.trainer import QSFTConfig

datasets.disable_progress_bars()
seeds = st.integers(0, 10_000)


def random_inputs(seed, size=5, vocabulary=4):
    rng = np.random.default_rng(seed)

    def tensor(*shape):
        return torch.tensor(rng.normal(size=shape))

    ended = torch.tensor(rng.random(size) < 0.4)
    return {
        "q": tensor(2, size, vocabulary).requires_grad_(),
        "value": tensor(size).requires_grad_(),
        "target_q": tensor(2, size),
        "next_value": tensor(size).masked_fill_(ended, torch.nan).requires_grad_(),
        "next_target_q": tensor(2, size, vocabulary),
        "actions": torch.tensor(rng.integers(vocabulary, size=size)),
        "reward": tensor(size),
        "discount": torch.where(ended, 0.0, torch.tensor(rng.random(size))),
    }


def surprise(row, action):
    """-log softmax(row)[action]."""
    return math.log(sum(math.exp(value) for value in row)) - row[action]


@given(seeds, st.floats(0.05, 0.95), st.floats(0, 3))
@settings(max_examples=30)
def test_ilql_losses_by_a_loop(seed, expectile, conservatism):
    x = random_inputs(seed)
    names = ("q", "value", "target_q", "next_value", "actions", "reward", "discount")
    found = losses.ilql_losses(
        *(x[name] for name in names), expectile=expectile, conservatism=conservatism
    )
    for i, loss in enumerate(found.tolist()):
        action, discount = x["actions"][i].item(), x["discount"][i].item()
        y = x["reward"][i].item() + (discount and discount * x["next_value"][i].item())
        expected = 0.0
        for head in x["q"].tolist():
            expected += 0.5 * (head[i][action] - y) ** 2 + conservatism * surprise(head[i], action)
        value, least = x["value"][i].item(), min(x["target_q"][:, i].tolist())
        weight = abs(expectile - (least < value))
        assert loss == pytest.approx(expected + weight * 0.5 * (value - least) ** 2)
    found.sum().backward()
    assert x["q"].grad.abs().sum() > 0 and x["value"].grad.abs().sum() > 0
    assert x["next_value"].grad is None  # a target is a constant


@given(seeds, st.floats(0, 3))
@settings(max_examples=30)
def test_cql_losses_by_a_loop(seed, conservatism):
    x = random_inputs(seed)
    names = ("q", "next_target_q", "actions", "reward", "discount")
    found = losses.cql_losses(*(x[name] for name in names), conservatism=conservatism)
    for i, loss in enumerate(found.tolist()):
        action, first, second = x["actions"][i].item(), *x["next_target_q"][:, i].tolist()
        best = max(min(pair) for pair in zip(first, second, strict=True))
        y = x["reward"][i].item() + x["discount"][i].item() * best
        expected = sum(
            0.5 * (head[i][action] - y) ** 2 + conservatism * surprise(head[i], action)
            for head in x["q"].tolist()
        )
        assert loss == pytest.approx(expected)


@given(seeds, st.floats(0.05, 0.95))
@settings(max_examples=20)
def test_the_expectile_minimises_its_loss(seed, expectile):
    sample = torch.tensor(np.random.default_rng(seed).normal(size=20))
    least = torch.tensor(stats.expectile(sample.numpy(), expectile), requires_grad=True)
    losses.expectile_losses(least.expand(20), sample, expectile).sum().backward()
    assert least.grad.item() == pytest.approx(0, abs=1e-6)


def test_losses_refuse_options_out_of_range():
    x = random_inputs(0)
    ilql = [x[name] for name in ("q", "value", "target_q", "next_value")]
    rest = [x[name] for name in ("actions", "reward", "discount")]
    with pytest.raises(ValueError, match="expectile must lie strictly between 0 and 1, got 1.5"):
        losses.ilql_losses(*ilql, *rest, expectile=1.5, conservatism=0.0)
    with pytest.raises(ValueError, match="conservatism must not be negative, got -1"):
        losses.cql_losses(x["q"], x["next_target_q"], *rest, conservatism=-1)


# A language of two observations and three actions, of one word each.

ACTIONS = ("a0 ", "a1 ", "a2 ")
WORDS = ("s0 ", "s1 ", *ACTIONS)


@pytest.fixture
def tokenizer():
    return word_tokenizer(WORDS)


@pytest.fixture
def model(tokenizer):
    return small_model(tokenizer, layers=1, width=16, heads=2, context=32, seed=0)


def random_values(model, seed=0):
    """Heads whose last layers are not zero, as after training."""
    values = ActionValues.on(model, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for head in (*values.q_heads, values.v_head):
        torch.nn.init.normal_(head[-1].weight, std=0.3, generator=generator)
    return values


def test_new_heads_say_zero_and_leave_the_model_alone(model, tokenizer):
    values = ActionValues.on(model, seed=1)
    ids = torch.tensor([tokenizer("s0 a1 s1 ")["input_ids"]])
    assert torch.equal(values(ids).logits, torch.zeros(1, 3, len(tokenizer)))
    first, second = (head[0].weight for head in values.q_heads)
    assert not torch.equal(first, second)
    assert torch.equal(first, ActionValues.on(model, seed=1).q_heads[0][0].weight)
    with torch.no_grad():
        values.backbone.embed_tokens.weight.zero_()
    assert model.get_input_embeddings().weight.abs().sum() > 0


def test_values_are_the_smaller_head_at_the_positions_asked_for(model, tokenizer):
    values = random_values(model)
    ids = torch.tensor([tokenizer("s0 a1 s1 a2 ")["input_ids"]])
    hidden = values.backbone(ids).last_hidden_state
    expected = torch.minimum(values.q_heads[0](hidden), values.q_heads[1](hidden))
    assert torch.allclose(values(ids).logits, expected)
    assert torch.allclose(values(ids, logits_to_keep=2).logits, expected[:, -2:])
    chosen = torch.tensor([0, 3])
    assert torch.allclose(values(ids, logits_to_keep=chosen).logits, expected[:, chosen])


def test_values_are_saved_whole(model, tokenizer, tmp_path):
    values = random_values(model)
    values.save_pretrained(tmp_path / "values")
    loaded = ActionValues.from_pretrained(tmp_path / "values")
    state = values.state_dict()
    assert set(state) == set(loaded.state_dict())
    assert all(torch.equal(weight, state[name]) for name, weight in loaded.state_dict().items())
    assert not list((tmp_path / "values").glob("*.bin"))
    (tmp_path / "values" / "heads.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="has no heads.safetensors"):
        ActionValues.from_pretrained(tmp_path / "values")


def test_damaged_values_are_named(model, tmp_path):
    random_values(model).save_pretrained(tmp_path)
    (tmp_path / "heads.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match="heads.safetensors cannot be read.*copy the whole folder"):
        ActionValues.from_pretrained(tmp_path)


def test_target_heads_follow_at_their_rate(model):
    values = random_values(model)
    learner = HeadStage(
        values, method="ilql", conservatism=0.0, target_rate=0.25, ruled_out=[], expectile=0.5
    )
    before = [weight.clone() for weight in learner.target_heads.parameters()]
    with torch.no_grad():
        for weight in values.q_heads.parameters():
            weight.add_(1.0)
    learner.after_step()
    for old, new in zip(before, learner.target_heads.parameters(), strict=True):
        assert torch.allclose(new, old + 0.25)
        assert not new.requires_grad


def test_one_new_head_for_paired_values(model, tokenizer, tmp_path):
    head = NewHead.on(model, seed=1)
    ids = torch.tensor([tokenizer("s0 a1 s1 ")["input_ids"]])
    assert torch.equal(head(ids).logits, torch.zeros(1, 3, len(tokenizer)))
    assert output_head(head) is head.output  # and so tied to nothing
    assert torch.equal(head.middle.weight, NewHead.on(model, seed=1).middle.weight)
    assert not torch.equal(head.middle.weight, NewHead.on(model, seed=2).middle.weight)
    with torch.no_grad():
        head.output.weight.normal_()
        hidden = head.backbone(ids).last_hidden_state
        expected = (hidden @ head.middle.weight.T + head.middle.bias).clamp(min=0)
        expected = expected @ head.output.weight.T
        torch.testing.assert_close(head(ids).logits, expected)
        torch.testing.assert_close(head(ids, logits_to_keep=1).logits, expected[:, -1:])
        head.backbone.embed_tokens.weight.zero_()
    assert model.get_input_embeddings().weight.abs().sum() > 0
    head.save_pretrained(tmp_path)
    loaded = NewHead.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(weight, loaded[name]) for name, weight in head.state_dict().items())
    with pytest.raises(ValueError, match="heads.safetensors cannot be read"):
        ActionValues.from_pretrained(tmp_path)


# Data


def encoded(tokenizer, transcripts, **options):
    """Episodes of (texts, return): observation, action, observation, action, ..."""
    rows = [
        {
            "text": list(texts),
            "is_action": [index % 2 == 1 for index in range(len(texts))],
            "reward": [0.0] * (len(texts) - 1) + [float(paid)],
            "done": True,
        }
        for texts, paid in transcripts
    ]
    scale = data.RewardScale(low=0.0, high=1.0, place="end")
    return data.encode(datasets.Dataset.from_list(rows), tokenizer, scale=scale, **options)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=12), st.floats(0.01, 1), seeds)
@settings(max_examples=20)
def test_the_best_episodes_are_the_best(scores, fraction, seed):
    column = [[0.0, score / 6] for score in scores]
    dataset = datasets.Dataset.from_dict({"reward": column, "number": range(len(scores))})
    kept = episode_tools.best_episodes(dataset, fraction, seed=seed)["number"]
    assert len(kept) == max(1, round(fraction * len(scores)))
    assert list(kept) == sorted(kept)
    dropped = [score for number, score in enumerate(scores) if number not in kept]
    assert min(scores[number] for number in kept) >= max(dropped, default=0)
    assert kept == episode_tools.best_episodes(dataset, fraction, seed=seed)["number"]


def test_ties_are_broken_by_the_seed():
    dataset = datasets.Dataset.from_dict({"reward": [[1.0]] * 50, "number": range(50)})
    chosen = [
        tuple(episode_tools.best_episodes(dataset, 0.2, seed=seed)["number"]) for seed in range(3)
    ]
    assert len(set(chosen)) == 3


def test_pieces_are_as_good_as_their_episodes(tokenizer):
    worse = ["s0 ", ACTIONS[0], "s1 ", ACTIONS[0], "s0 ", ACTIONS[0], "s1 "]
    better = ["s0 ", ACTIONS[1], "s1 ", ACTIONS[1], "s0 ", ACTIONS[1], "s1 "]
    episodes = encoded(tokenizer, [(worse, 0.0), (better, 1.0)], memory="turn")
    pieces = data.cut_turns(episodes, 5)
    assert len(pieces) == 6
    kept = episode_tools.best_episodes(pieces, 0.5, seed=0)
    assert list(episode_tools.episode_returns(kept)) == [1, 1, 1]
    best = tokenizer.convert_tokens_to_ids(ACTIONS[1])
    assert all(best in row for row in kept["input_ids"])


def test_returns_fall_into_equal_levels():
    returns = [0.0, 0.09, 0.1, 0.3, 1 / 6, 0.95, 1.0]
    rewards = np.array(returns, dtype=np.float32)[:, None].tolist()
    dataset = datasets.Dataset.from_dict({"reward": rewards})
    assert episode_tools.return_levels(dataset, 10).tolist() == [0, 0, 1, 3, 1, 9, 9]


def test_the_return_token_comes_second(model, tokenizer):
    episodes = encoded(tokenizer, [(["s0 ", "a1 ", "s1 ", "a2 "], 0.0), (["s1 ", "a0 "], 1.0)])
    _, longer_tokenizer = episode_tools.add_return_tokens(model, tokenizer, 4, seed=0)
    conditioned = episode_tools.condition_on_return(episodes, longer_tokenizer, 4)
    assert conditioned.column_names == episodes.column_names
    for before, after, level in zip(episodes, conditioned, (0, 3), strict=True):
        new = longer_tokenizer.convert_tokens_to_ids(f"<return_{level}>")
        ids = before["input_ids"]
        assert after["input_ids"] == [ids[0], new, *ids[1:]]
        for name in ("action_mask", "reward", "discount", "return_to_go"):
            assert not after[name][1]
            assert after[name][2:] == before[name][1:]
        shifted = [index if index < 0 else index + 1 for index in before["next_action"]]
        assert after["next_action"] == [-1, *shifted]
    text = longer_tokenizer.decode(conditioned[0]["input_ids"][1:])
    assert longer_tokenizer(text)["input_ids"] == conditioned[0]["input_ids"][1:]


def test_the_return_token_comes_second_in_each_turn_that_is_apart(model, tokenizer):
    games = [(["s0 ", "a1 ", "s1 ", "a2 ", "s0 "], 0.0), (["s1 ", "a0 "], 1.0)]
    episodes = encoded(tokenizer, games, memory="turn")
    _, longer_tokenizer = episode_tools.add_return_tokens(model, tokenizer, 4, seed=0)
    first, second = episode_tools.condition_on_return(episodes, longer_tokenizer, 4)
    assert longer_tokenizer.convert_ids_to_tokens(first["input_ids"]) == [
        *("<bos>", "<return_0>", "s0 ", "a1 "),
        *("<bos>", "<return_0>", "s1 ", "a2 "),
        *("<bos>", "<return_0>", "s0 "),
    ]
    assert first["position_ids"] == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2]
    assert first["next_action"] == [-1, -1, -1, 7, *[-1] * 7]
    assert np.flatnonzero(first["action_mask"]).tolist() == [3, 7]
    assert second["position_ids"] == [0, 1, 2, 3]


def test_return_tokens_are_new_and_never_written(model, tokenizer):
    longer_model, longer_tokenizer = episode_tools.add_return_tokens(model, tokenizer, 3, seed=0)
    assert len(longer_tokenizer) == len(tokenizer) + 3 == output_head(longer_model).out_features
    ids = torch.tensor([tokenizer("s0 a1 s1 ")["input_ids"]])
    before = model(ids).logits
    assert torch.equal(longer_model(ids).logits[..., : len(tokenizer)], before)
    with torch.no_grad():  # make them the likeliest tokens by far
        longer_model.get_input_embeddings().weight[len(tokenizer) :] *= 1000
    policy = ClonedPolicy(longer_model, longer_tokenizer, stop=" ", max_new_tokens=1)
    assert set(policy.act(["s0 "] * 50)) <= set(WORDS)
    with pytest.raises(ValueError, match="levels must be at least 2"):
        episode_tools.add_return_tokens(model, tokenizer, 1, seed=0)


# Play


class Bandit(gymnasium.Env):
    """One observation, one action, and its return."""

    RETURNS = {"a0 ": 0.1, "a1 ": 0.4, "a2 ": 1.0}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return "s0 ", {}

    def step(self, action):
        paid = self.RETURNS.get(action, 0.0)
        return "s1 ", paid, True, False, {"success": paid == 1.0}


def bandit_episodes(tokenizer, *, games=300):
    """Mostly the worst action, seldom the best. The chances of a return of 1 differ by action."""
    rng = np.random.default_rng(0)
    chosen = rng.choice(3, size=games, p=[0.6, 0.3, 0.1])
    paid = rng.random(games) < np.array([0.1, 0.4, 0.9])[chosen]
    episodes = encoded(
        tokenizer, [(["s0 ", ACTIONS[a]], float(r)) for a, r in zip(chosen, paid, strict=True)]
    )
    return episodes, np.bincount(chosen[paid], minlength=3) / paid.sum()


def arguments(folder, **changes):
    settings = {
        "output_dir": str(folder),
        "max_steps": 80,
        "per_device_train_batch_size": 64,
        "learning_rate": 0.03,
        "lr_scheduler_type": "linear",
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    return QSFTConfig(**{**settings, **changes})


def test_conditioning_on_a_return_is_bayes_rule(model, tokenizer, tmp_path):
    """pi(a | return 1) is the share of each action among the games that returned 1."""
    episodes, posterior = bandit_episodes(tokenizer)
    trained = baselines.train(
        "return_conditioned",
        model,
        tokenizer,
        episodes,
        episodes,
        arguments(tmp_path),
        length=64,
        levels=2,
    )
    assert trained.prompt == "<return_1>"
    policy = trained.policy(stop=" ", max_new_tokens=1, seed=3)
    actions = policy.act(["s0 "] * 4000)
    shares = np.array([actions.count(action) for action in ACTIONS]) / 4000
    assert np.abs(shares - posterior).max() < 0.05
    assert policy.act(["s0 a2 s1 "])[0] in WORDS


@pytest.mark.parametrize("support", [0.0, 0.95])
def test_sampled_actions_follow_the_weights(model, tokenizer, support):
    values = random_values(model)
    history, beta, temperature = "s0 a1 s1 ", 2.0, 0.5
    ids = torch.tensor([[1, *tokenizer(history)["input_ids"]]])
    with torch.no_grad():
        log_pi = model(ids).logits[0, -1].log_softmax(-1)
        weights = (log_pi / temperature + beta * values(ids).logits[0, -1]).double().exp().numpy()
    weights[:3] = 0  # the special tokens
    pi = log_pi.exp().numpy()
    weights[pi < support * pi.max()] = 0
    assert support == 0 or 0 < (weights > 0).sum() < (pi > 0).sum() - 3
    policy = ValuePolicy(
        model,
        values,
        tokenizer,
        beta,
        temperature=temperature,
        relative_support=support,
        stop=" ",
        max_new_tokens=1,
        seed=1,
    )
    actions = policy.act([history] * 4000)
    vocabulary = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    shares = np.array([actions.count(token) for token in vocabulary]) / 4000
    assert np.abs(shares - weights / weights.sum()).max() < 0.04


@given(seeds, st.sampled_from([0.0, 3.0]), st.sampled_from([0.0, 0.5]))
@settings(max_examples=20)
def test_the_distilling_loss_by_a_loop(seed, beta, support):
    """Of two networks without layers, in double precision, whatever the size of the chunks."""
    tokenizer = word_tokenizer(WORDS)
    vocabulary = len(tokenizer)
    student, pi, q = (
        small_model(tokenizer, layers=0, width=4, heads=2, context=32, seed=seed + i)
        for i in range(3)
    )
    for one in (student, pi, q):
        with torch.no_grad():
            one.lm_head.weight *= 30
    q.config.q_sft_prior = 0.5
    teacher = baselines.TrainedMethod(
        "q_sft", baselines.METHODS["q_sft"].options, pi, q, tokenizer, "", []
    ).policy(beta=beta, relative_support=support, stop=" ", max_new_tokens=1)
    ruled_out = [0, 1, 2]
    rng = np.random.default_rng(seed)
    ids, mask = rng.integers(3, vocabulary, (2, 5)), rng.random((2, 5)) < 0.6
    mask[:, 0] = False
    batch = {
        "input_ids": torch.tensor(ids),
        "action_mask": torch.tensor(mask),
        "position_ids": torch.arange(5).expand(2, 5),
        "segment_ids": torch.ones(2, 5, dtype=torch.long),
    }
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(distilling, "STATES_AT_ONCE", 2)
        stage = distilling.DistillingStage(student, teacher, ruled_out)
        found = stage(statistics=True, **batch)

    def scores(model, token):
        with torch.no_grad():
            return model(torch.tensor([[token]])).logits[0, 0].double().numpy()

    losses_found, divergences = [], []
    for row in range(2):
        for place in np.flatnonzero(mask[row]):
            state = ids[row, place - 1]
            own, of_pi, of_q = (scores(model, state) for model in (student, pi, q))
            log_pi = of_pi - np.log(np.exp(of_pi).sum())
            allowed = [token for token in range(vocabulary) if token not in ruled_out]
            best = max(log_pi[token] for token in allowed)
            inside = [t for t in allowed if support == 0 or log_pi[t] >= best + np.log(support)]
            value = 1 / (1 + np.exp(-(of_q - of_pi)))
            weights = np.exp([log_pi[t] + beta * value[t] for t in inside])
            pi_hat = weights / weights.sum()
            log_student = own - np.log(np.exp(own).sum())
            losses_found.append(-sum(pi_hat * log_student[inside]))
            divergences.append(losses_found[-1] + sum(pi_hat * np.log(pi_hat)))
    expected = (np.mean(losses_found), np.mean(divergences)) if losses_found else (0.0, None)
    assert found["loss"].item() == pytest.approx(expected[0], abs=1e-4)
    if losses_found:
        assert found["kl"].item() == pytest.approx(expected[1], abs=1e-4)
        found["loss"].backward()
        assert all(weight.grad is None for model in (pi, q) for weight in model.parameters())
        assert stage.student.lm_head.weight.grad.abs().sum() > 0


def test_caches_do_not_change_what_is_played(model, tokenizer):
    values = random_values(model)

    def fresh():
        return ValuePolicy(model, values, tokenizer, 4.0, greedy=True, stop=" ", max_new_tokens=1)

    cached, histories = fresh(), ["s0 ", "s1 ", "s0 s1 "]
    for turn in range(4):
        actions = cached.act(histories)
        assert actions == fresh().act(histories)
        histories = [
            history + action + f"s{turn % 2} "
            for history, action in zip(histories, actions, strict=True)
        ]
    assert cached.computed_tokens < 1.5 * cached.transcript_tokens


def test_options_of_a_policy(model, tokenizer):
    def trained(method, values):
        own = baselines.METHODS[method].options
        return baselines.TrainedMethod(method, own, model, values, tokenizer, "", [])

    add_dummy(model, tokenizer)
    play = {"stop": " ", "max_new_tokens": 1}
    values = random_values(model)
    assert isinstance(trained("bc", None).policy(temperature=0.5, **play), ClonedPolicy)
    assert isinstance(trained("cql", values).policy(beta=2.0, **play), ValuePolicy)
    ours = trained("q_sft", model).policy(beta=2.0, **play)
    assert (ours.score, ours.dummy) == ("paired", None)
    one_dummy = trained("q_sft_dummy", model)
    assert one_dummy.policy(beta=2.0, **play).score == "ratio"
    assert one_dummy.policy(beta=2.0, **play).dummy == 2
    assert one_dummy.policy(beta=2.0, score="p", **play).score == "p"
    paper = trained("q_sft_paper", model).policy(beta=2.0, **play)
    assert (paper.score, paper.dummy) == ("p", None)
    # Of an older version: the name stood for another form, which its settings say.
    older = baselines.METHODS["q_sft_dummy"].options
    older = baselines.TrainedMethod("q_sft", older, model, model, tokenizer, "", [])
    assert older.policy(beta=2.0, **play).score == "ratio"
    for one, score in ((trained("q_sft", model), "ratio"), (older, "paired")):
        with pytest.raises(ValueError, match=f"score='{score}' is not for q_sft, .* leftover="):
            one.policy(beta=2.0, score=score, **play)
    with pytest.raises(ValueError, match="ilql needs a beta"):
        trained("ilql", values).policy(**play)
    with pytest.raises(ValueError, match="bc has no values, and so takes no beta"):
        trained("bc", None).policy(beta=1.0, **play)
    with pytest.raises(ValueError, match="ilql takes no score"):
        trained("ilql", values).policy(beta=1.0, score="p", **play)
    with pytest.raises(ValueError, match="temperature must be positive and finite, not 0; greedy"):
        trained("bc", None).policy(temperature=0, **play)


def test_the_best_options_are_those_of_the_best_games(model, tokenizer):
    values = ActionValues.on(model)
    with torch.no_grad():  # the value of an action, whatever the state
        for head in values.q_heads:
            for action, paid in Bandit.RETURNS.items():
                head[-1].bias[tokenizer.convert_tokens_to_ids(action)] = paid
    trained = baselines.TrainedMethod("ilql", {}, model, values, tokenizer, "", [])

    def mean(options):
        policy = trained.policy(**options, stop=" ", max_new_tokens=1)
        return evaluate(policy, Bandit(), 200, 0).mean

    choice = choosing.choose(mean, {"beta": (0.0, 1.0, 100.0)}, widenings=0)
    assert choice.options == {"beta": 100.0} and choice.score == 1.0
    clone, mild, _ = (row["mean"] for row in choice.tried)
    assert clone < mild < 1.0
