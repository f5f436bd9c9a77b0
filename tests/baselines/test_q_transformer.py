"""Q-Transformer: its loss by loops, its choices, and its fixed point on actions of two tokens."""

import copy
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TrainerCallback

from qsft_lite import baselines, data
from qsft_lite.baselines import METHODS, TrainedMethod
from qsft_lite.baselines.choosing import GREEDY_BETA
from qsft_lite.baselines.methods import no_actions
from qsft_lite.baselines.q_transformer import (
    FIRST_VALUE,
    QTransformerStage,
    TokenValues,
    choices_table,
    places_in_actions,
    q_transformer_losses,
)
from qsft_lite.data import collate, pack
from qsft_lite.models import small_model, word_tokenizer
from qsft_lite.policy.constraints import ActionList
from qsft_lite.trainer import QSFTConfig

datasets.disable_progress_bars()

# A walk of three places, 0 to 2. An action says how hard and which way: two words. The first word
# names its place, too, so that a model that reads one word knows all that it must.

PLACES, PUSHES, WAYS = 3, 3, 2
STATES = tuple(f"at{place} " for place in range(PLACES))
FIRST = tuple(f"x{place}{push} " for place in range(PLACES) for push in range(PUSHES))
SECOND = tuple(f"y{way} " for way in range(WAYS))
CONTEXTS, WORDS = (*STATES, *FIRST), (*STATES, *FIRST, *SECOND, "end ")
TOKENIZER = word_tokenizer(WORDS)
GAMMA, ALPHA, LENGTH = 0.8, 0.5, 128


def ids(words):
    return TOKENIZER.convert_tokens_to_ids(list(words))


def walks(games, seed):
    """Recorded walks of a random behavior policy; some are cut off after a few steps."""
    rng = np.random.default_rng(seed)
    pushes = rng.dirichlet(np.full(PUSHES, 2.0), size=PLACES)
    ways = rng.dirichlet(np.full(WAYS, 3.0), size=(PLACES, PUSHES))
    found = []
    for _ in range(games):
        place, done, row = 0, False, {"text": [STATES[0]], "is_action": [False], "reward": [0.0]}
        for _ in range(6):
            push = rng.choice(PUSHES, p=pushes[place])
            way = rng.choice(WAYS, p=ways[place, push])
            moved = rng.random() < 0.25 + 0.3 * push  # harder is surer, and ends more walks
            done = rng.random() < 0.12 * (1 + push)
            reward = float(rng.random() < (0.1, 0.3, 0.8)[place]) if done else 0.0
            row["text"].append(FIRST[place * PUSHES + push] + SECOND[way])
            place = int(np.clip(place + (2 * way - 1) * moved, 0, PLACES - 1))
            row["text"].append("end " if done else STATES[place])
            row["is_action"] += [True, False]
            row["reward"] += [reward, 0.0]
            if done:
                break
        found.append({**row, "done": done})
    return found


def encoded(games, discount="turn", low=0.0):
    scale = data.RewardScale(low=low, high=1.0, place="step")
    dataset = datasets.Dataset.from_list(games)
    return data.encode(dataset, TOKENIZER, scale=scale, gamma=GAMMA, discount=discount)


def steps_of(games, of_first):
    """Of every token (context, token, reward, discount, next context or None, return to go).

    From the texts alone; a context is the last word that was read. of_first: the discount of a
    first word; a second one has GAMMA.
    """
    steps = []
    for game in games:
        actions, returned = [i for i, own in enumerate(game["is_action"]) if own], 0.0
        for i in reversed(actions):
            first, second = (f"{word} " for word in game["text"][i].split())
            paid, (state, after) = game["reward"][i], game["text"][i - 1 : i + 2 : 2]
            ended = game["done"] and i == actions[-1]
            returned = paid + GAMMA * returned
            steps.append((first, second, paid, GAMMA, None if ended else after, returned))
            returned = of_first * returned
            steps.append((state, first, 0.0, of_first, first, returned))
    return steps


def choices_of(kind, games):
    """The tokens that may follow each context, by the kind of choices."""
    if kind == "seen":
        return {**dict.fromkeys(STATES, FIRST), **dict.fromkeys(FIRST, SECOND)}
    if kind == "all":
        return dict.fromkeys(CONTEXTS, WORDS)
    taken = {context: set() for context in CONTEXTS}  # "behavior", which gives all of them a chance
    for context, token, *_ in steps_of(games, 1.0):
        taken[context].add(token)
    return taken


def fixed_point(games, *, kind="seen", bound=True, of_first=1.0, alpha=ALPHA):
    """Q (words, words), float64, of a context and a token, by iteration; and how often it is bound.

    What n of the N tokens of a context are has n (q - mean y) + alpha (N - n) q / others = 0.
    """
    steps, choices = steps_of(games, of_first), choices_of(kind, games)
    places = {word: place for place, word in enumerate(WORDS)}
    counts = np.zeros((len(WORDS), len(WORDS)))
    for context, token, *_ in steps:
        counts[places[context], places[token]] += 1
    others = np.array([[max(len(choices.get(word, ())) - 1, 1)] for word in WORDS])
    weight = counts + alpha * (counts.sum(1, keepdims=True) - counts) / others
    q = np.zeros_like(counts)
    for _ in range(400):
        sums, at_bound = np.zeros_like(q), 0
        for context, token, paid, discount, following, returned in steps:
            y = paid
            if following is not None:
                best = max(q[places[following], places[b]] for b in choices[following])
                y += discount * best
            at_bound += returned > y + 1e-9
            sums[places[context], places[token]] += min(max(y, returned) if bound else y, 1.0)
        new = np.divide(sums, weight, out=np.zeros_like(q), where=weight > 0)
        change, q = np.abs(new - q).max(), new
        if change < 1e-13:
            return SimpleNamespace(q=q, counts=counts, at_bound=at_bound / len(steps))
    raise AssertionError(f"it still moves by {change}")


def arguments(folder, **changes):
    named = {
        "output_dir": str(folder),
        "max_steps": 250,
        "per_device_train_batch_size": 64,
        "learning_rate": 0.03,
        "lr_scheduler_type": "linear",
        "target_rate": 0.1,
        "adam_beta2": 0.95,
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_steps": 100,
    }
    return QSFTConfig(**{**named, **changes})


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    games, folder = walks(120, seed=1), tmp_path_factory.mktemp("runs")
    model = small_model(TOKENIZER, layers=0, width=32, heads=2, context=LENGTH, seed=0)
    episodes = encoded(games)
    options = {"max_steps": 100, "learning_rate": 0.05}
    cloned = baselines.train(
        "bc", model, TOKENIZER, episodes, None, arguments(folder, **options), length=LENGTH
    )
    return SimpleNamespace(games=games, episodes=episodes, pi=cloned.behavior, folder=folder)


def train(problem, *, folder=None, episodes=None, callbacks=(), resume=False, own=None, **changes):
    return baselines.train(
        "q_transformer",
        problem.pi,
        TOKENIZER,
        episodes or problem.episodes,
        problem.episodes.select(range(20)),
        arguments(folder or problem.folder, **changes),
        length=LENGTH,
        callbacks=callbacks,
        resume=resume,
        **own or {},
    )


@torch.no_grad()
def learned(trained):
    """Q (contexts, words), float64."""
    found = trained.values(torch.tensor(ids(CONTEXTS))[:, None]).logits[:, 0, ids(WORDS)]
    return found.double().numpy()


def error(trained, exact, kind="seen", games=()):
    """The largest one over choices of contexts that the data have."""
    choices, found = choices_of(kind, games), learned(trained)
    return max(
        abs(found[i, j] - exact.q[i, j])
        for i, context in enumerate(CONTEXTS)
        for j, word in enumerate(WORDS)
        if exact.counts[i].any() and word in choices[context]
    )


# The loss


def random_inputs(seed, size=6, vocabulary=5):
    rng = np.random.default_rng(seed)
    ended = rng.random(size) < 0.4
    actions = rng.integers(vocabulary, size=size)
    choices = rng.random((size, vocabulary)) < 0.6
    choices[np.arange(size), actions] |= rng.random(size) < 0.8  # or of a kind that was never seen
    next_choices = rng.random((size, vocabulary)) < 0.5
    next_choices[:, 0] |= ~next_choices.any(1)
    next_q = rng.random((size, vocabulary))
    next_q[ended] = np.nan
    found = {
        "q": rng.random((size, vocabulary)),
        "choices": choices,
        "next_q": next_q,
        "next_choices": next_choices,
        "actions": actions,
        "reward": rng.random(size) * 0.6,
        "discount": np.where(ended, 0.0, rng.random(size)),
        "return_to_go": rng.random(size),
    }
    return {name: torch.tensor(array) for name, array in found.items()}


@given(st.integers(0, 10_000), st.floats(0, 3))
@settings(max_examples=60, deadline=None)
def test_losses_and_gradients_by_a_loop(seed, conservatism):
    x = random_inputs(seed)
    x["q"].requires_grad_()
    found, targets = q_transformer_losses(**x, conservatism=conservatism)
    found.sum().backward()
    size, vocabulary = x["q"].shape
    lists = {name: tensor.tolist() for name, tensor in x.items()}
    for i in range(size):
        q, action = lists["q"][i], lists["actions"][i]
        y = lists["reward"][i]
        if lists["discount"][i] > 0:
            allowed = [b for b in range(vocabulary) if lists["next_choices"][i][b]]
            y += lists["discount"][i] * max(lists["next_q"][i][b] for b in allowed)
        y = min(max(y, lists["return_to_go"][i]), 1.0)
        others = [b for b in range(vocabulary) if b != action and lists["choices"][i][b]]
        loss = (q[action] - y) ** 2 / 2
        gradient = [0.0] * vocabulary
        gradient[action] = q[action] - y
        for b in others:
            loss += conservatism / 2 * q[b] ** 2 / len(others)
            gradient[b] = conservatism * q[b] / len(others)
        assert targets[i].item() == pytest.approx(y, abs=1e-12)
        assert found[i].item() == pytest.approx(loss, abs=1e-12)
        assert x["q"].grad[i].tolist() == pytest.approx(gradient, abs=1e-12)


def test_a_conservatism_below_zero_is_refused():
    with pytest.raises(ValueError, match="conservatism must not be negative, got -0.5"):
        q_transformer_losses(**random_inputs(0), conservatism=-0.5)


@pytest.mark.parametrize("of_first", [1.0, GAMMA])
def test_the_loss_is_least_at_the_fixed_point(of_first):
    """In a table of float64: no gradient is left at the choices, and there is some beside it."""
    games = walks(30, seed=3)
    exact, choices = fixed_point(games, of_first=of_first), choices_of("seen", games)
    allowed = torch.tensor([[word in choices.get(one, ()) for word in WORDS] for one in WORDS])
    places = {word: place for place, word in enumerate(WORDS)}
    steps = steps_of(games, of_first)
    context, token = (torch.tensor([places[step[i]] for step in steps]) for i in (0, 1))
    after = torch.tensor([places[step[4] or step[1]] for step in steps])  # anything at an end
    paid, discount, returned = (
        torch.tensor([step[i] for step in steps], dtype=torch.float64) for i in (2, 3, 5)
    )
    discount[[step[4] is None for step in steps]] = 0.0

    def gradient(table):
        table = table.clone().requires_grad_()
        losses, _ = q_transformer_losses(
            *(table[context], allowed[context], table[after], allowed[after], token),
            *(paid, discount, returned),
            conservatism=ALPHA,
        )
        losses.sum().backward()
        return table.grad

    table = torch.tensor(exact.q)
    assert gradient(table).abs().max() < 1e-9
    assert gradient(table + 0.01 * allowed).abs().max() > 0.1


# Choices


def test_places_start_anew_after_every_gap():
    at = torch.tensor([2, 3, 4, 7, 9, 10])
    assert places_in_actions(at).tolist() == [0, 1, 2, 0, 0, 1]
    assert places_in_actions(at[:0]).tolist() == []


def test_choices_are_what_the_data_have_at_a_place():
    episodes = encoded(walks(200, seed=0))
    seen = choices_table("seen", episodes, len(TOKENIZER), [])
    assert seen.shape == (2, len(TOKENIZER))
    assert seen[0].nonzero()[:, 0].tolist() == sorted(ids(FIRST))
    assert seen[1].nonzero()[:, 0].tolist() == sorted(ids(SECOND))
    ruled_out = no_actions(TOKENIZER, len(TOKENIZER) + 2)
    every = choices_table("all", episodes, len(TOKENIZER) + 2, [*ruled_out, ids(SECOND)[0]])
    assert every.shape == (1, len(TOKENIZER) + 2)  # what the data have is a choice all the same
    assert every[0].nonzero()[:, 0].tolist() == sorted(ids(WORDS))
    with pytest.raises(ValueError, match="choices must be one of seen, behavior, all, got 'bins'"):
        choices_table("bins", episodes, len(TOKENIZER), [])


def test_choices_of_longer_actions_are_those_of_the_last_place(problem):
    values = TokenValues.on(problem.pi)
    values.choices = torch.eye(3, len(TOKENIZER), dtype=torch.bool)
    assert values.choices_at(torch.tensor([0, 2, 3, 9])).int().argmax(1).tolist() == [0, 2, 2, 2]


@torch.no_grad()
def test_values_begin_low_and_alike(problem):
    scores = TokenValues.on(problem.pi)(torch.tensor([ids(CONTEXTS)])).logits
    assert torch.allclose(scores, torch.full_like(scores, FIRST_VALUE))


# Training


def test_the_data_are_what_the_tests_need(problem):
    exact = fixed_point(problem.games)
    assert 0.05 < exact.at_bound < 0.5
    assert exact.counts[: len(CONTEXTS)].any(1).all()
    ended = np.mean([game["done"] for game in problem.games])
    assert 0.5 < ended < 0.97
    for other in ({"bound": False}, {"of_first": GAMMA}, {"alpha": 0.0}):
        assert np.abs(fixed_point(problem.games, **other).q - exact.q).max() > 0.1, other
    pairs = exact.counts / exact.counts.sum(1, keepdims=True).clip(1)
    assert pairs[pairs > 0].min() > 0.03  # well within the support of the clone


def test_training_ends_at_the_fixed_point(problem):
    """The return bounds from below; the last word of an action alone is paid and discounted."""
    exact = fixed_point(problem.games)
    trained = train(problem)
    assert error(trained, exact) < 0.005
    assert error(trained, fixed_point(problem.games, bound=False)) > 0.1
    last = trained.logs[-2]
    mean = (exact.counts * exact.q).sum() / exact.counts.sum()
    assert last["q_mean"] == pytest.approx(mean, abs=0.005)
    assert last["at_bound"] > exact.at_bound  # at an end the two are the same


def test_the_discount_is_what_the_encoding_says(problem):
    trained = train(problem, episodes=encoded(problem.games, discount="token"))
    assert error(trained, fixed_point(problem.games, of_first=GAMMA)) < 0.005


@pytest.mark.parametrize("kind", ["behavior", "all"])
def test_other_choices_have_their_own_fixed_points(problem, kind):
    exact = fixed_point(problem.games, kind=kind)
    assert np.abs(exact.q - fixed_point(problem.games).q).max() > 0.03
    trained = train(problem, own={"choices": kind}, support=0.01)
    assert error(trained, exact, kind, problem.games) < 0.005


def test_without_conservatism_the_target_is_learned_alone(problem):
    """The values of what was taken; nothing holds the others, and the maximum trusts them."""
    trained = train(problem, own={"conservatism": 0.0, "choices": "behavior"}, support=0.01)
    exact = fixed_point(problem.games, kind="behavior", alpha=0.0)
    assert error(trained, exact, "behavior", problem.games) < 0.005


def test_the_target_network_follows_whole(problem):
    values = TokenValues.on(problem.pi)
    stage = QTransformerStage(values, conservatism=ALPHA, target_rate=0.25)
    before = [weight.clone() for weight in stage.target.parameters()]
    with torch.no_grad():
        for weight in values.parameters():
            weight.add_(1.0)
    stage.after_step()
    for old, new in zip(before, stage.target.parameters(), strict=True):
        assert torch.allclose(new, old + 0.25) and not new.requires_grad
    assert not stage.train().target.training


def test_targets_are_of_the_target_network(problem):
    stage = QTransformerStage(TokenValues.on(problem.pi), conservatism=0.0, target_rate=0.1)
    batch = collate(list(pack(problem.episodes.select(range(12)), LENGTH)))
    means = []
    for bias in (-20.0, 20.0):  # then all of its values are 0, or 1
        torch.nn.init.constant_(stage.target.q_head[-1].bias, bias)
        found = stage(statistics=True, **batch)
        means.append(found["target_mean"].item())
        found["loss"].backward()
    returned = batch["return_to_go"][batch["action_mask"]].mean().item()
    assert means[0] == pytest.approx(returned, abs=1e-5)
    goes_on = (batch["next_action"] >= 0) & batch["action_mask"]
    highest = torch.where(goes_on, batch["discount"], batch["return_to_go"])[batch["action_mask"]]
    assert means[1] == pytest.approx(highest.mean().item(), abs=1e-5)
    assert all(weight.grad is None for weight in stage.target.parameters())
    assert stage.values.q_head[-1].bias.grad.abs().sum() > 0


def test_a_step_is_that_of_each_episode_alone(problem):
    """Packed rows, of several episodes and with padding, against single ones, by their loss."""
    values = TokenValues.on(problem.pi)
    generator = torch.Generator().manual_seed(0)
    torch.nn.init.normal_(values.q_head[-1].weight, generator=generator)
    values.choices = choices_table("seen", problem.episodes, len(TOKENIZER), [])
    stage = QTransformerStage(values, conservatism=ALPHA, target_rate=0.1).eval()
    episodes = problem.episodes.select(range(12))

    def loss(part, length):
        batch = collate(list(pack(part, length)))
        return stage(**batch)["loss"] * batch["action_mask"].sum()

    lengths = [len(row) for row in episodes["input_ids"]]
    alone = sum(loss(episodes.select([i]), length) for i, length in enumerate(lengths))
    torch.testing.assert_close(loss(episodes, 61), alone)


def test_a_killed_training_resumes_bit_for_bit(problem, tmp_path):
    class Kill(TrainerCallback):
        def on_step_end(self, args, state, control, **others):
            if state.global_step == 10:
                raise InterruptedError

    often = {"save_strategy": "steps", "save_steps": 4, "per_device_train_batch_size": 2}
    changes = {"max_steps": 14, "logging_steps": 2, **often}
    unbroken = train(problem, folder=tmp_path / "unbroken", **changes)
    broken = tmp_path / "broken"
    with pytest.raises(InterruptedError):
        train(problem, folder=broken, callbacks=[Kill()], resume=True, **changes)
    assert len(list(broken.rglob("checkpoint-*"))) == 2
    resumed = train(problem, folder=broken, resume=True, **changes)
    again = train(problem, folder=broken, resume=True, **changes)
    for one in (resumed, again):
        state = one.values.state_dict()
        assert all(torch.equal(w, state[name]) for name, w in unbroken.values.state_dict().items())
        assert [line["step"] for line in one.logs] == [line["step"] for line in unbroken.logs]
    for other in ({"choices": "all"}, {"conservatism": 0.1}):
        with pytest.raises(ValueError, match="another run, of other options"):
            train(problem, folder=broken, resume=True, own=other, **changes)


def test_what_cannot_be_trained(problem):
    with pytest.raises(
        ValueError, match="knows no option expectile; its own are: conservatism, ch"
    ):
        train(problem, own={"expectile": 0.5})
    with pytest.raises(ValueError, match="choices must be one of"):
        train(problem, own={"choices": "bins"})
    with pytest.raises(ValueError, match="conservatism must not be negative"):
        train(problem, own={"conservatism": -1.0}, max_steps=1)


# Saved, and at play


@pytest.fixture(scope="module")
def trained(problem):
    return train(problem, max_steps=30)


def test_it_is_saved_and_loaded_whole(trained, tmp_path):
    trained.save_pretrained(tmp_path / "one")
    again = TrainedMethod.from_pretrained(tmp_path / "one")
    assert (again.method, again.settings) == ("q_transformer", trained.settings)
    assert trained.settings == METHODS["q_transformer"].options
    state = trained.values.state_dict()
    assert state["choices"].shape == (2, len(TOKENIZER)) and not state["choices"].all()
    loaded = again.values.state_dict()
    assert state.keys() == loaded.keys()
    assert all(torch.equal(weight, loaded[name]) for name, weight in state.items())
    asked = [[1, ids(STATES)[0]], [1, ids(STATES)[1], ids(FIRST)[4]]], [ids(FIRST), ids(SECOND)]
    for before, after in zip(trained.values_of(*asked), again.values_of(*asked), strict=True):
        assert all(map(np.array_equal, before, after))
    found = trained.values_of(*asked)[1]
    np.testing.assert_allclose(found[1], learned(trained)[3 + 4, -3:-1], atol=1e-6)
    play = {"beta": 4.0, "stop": SECOND, "max_new_tokens": 2, "seed": 3}
    played = [each.policy(**play).act(["at0 "] * 30) for each in (trained, again)]
    assert played[0] == played[1] and len({*played[0]}) > 3


PLAY = {"stop": SECOND, "max_new_tokens": 2}


def test_it_plays_the_best_choice_of_each_place(trained):
    q = learned(trained)
    places = {word: place for place, word in enumerate(WORDS)}
    expected = []
    for state in STATES:
        first = max(FIRST, key=lambda word: q[places[state], places[word]])
        second = max(SECOND, key=lambda word: q[places[first], places[word]])
        expected.append(first + second)
    # Of tokens that are no choices nothing was learned, and here they say the most.
    misled = copy.deepcopy(trained)
    with torch.no_grad():
        others = ids((*STATES, "end "))
        misled.values.q_head[-1].bias[others] += 20.0
    options = {"beta": GREEDY_BETA, "greedy": True, **PLAY}
    for one in (trained, misled):
        assert one.policy(**options).act(list(STATES)) == expected


def test_sampled_actions_follow_the_weights(trained):
    beta, temperature = 6.0, 0.5
    with torch.no_grad():
        log_pi = trained.behavior(torch.tensor(ids(CONTEXTS))[:, None]).logits[:, 0]
    log_pi = log_pi.log_softmax(-1)[:, ids(WORDS)].double().numpy()
    weights = np.exp(log_pi / temperature + beta * learned(trained))
    choices = choices_of("seen", ())
    weights *= [[word in choices[context] for word in WORDS] for context in CONTEXTS]
    weights /= weights.sum(1, keepdims=True)
    policy = trained.policy(beta=beta, temperature=temperature, **PLAY, seed=1)
    actions = policy.act(["at1 "] * 4000)
    places = {word: place for place, word in enumerate(WORDS)}
    for first in FIRST:
        for second in SECOND:
            expected = weights[1, places[first]] * weights[places[first], places[second]]
            assert abs(actions.count(first + second) / 4000 - expected) < 0.04


def test_where_no_choice_may_be_written_another_token_is(trained):
    constraint = ActionList(TOKENIZER, ["end y0 ", "end y1 "])
    policy = trained.policy(beta=4.0, **PLAY, constraint=constraint)
    assert {*policy.act(["at0 "] * 20)} == {"end y0 ", "end y1 "}
