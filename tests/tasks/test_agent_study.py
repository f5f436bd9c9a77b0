"""The studies of WebShop and ALFWorld: their games, and what they say of networks."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sample_tokenizers import byte_level

from qsft_lite.data import start_id
from qsft_lite.evaluate import evaluate
from qsft_lite.models import small_model
from qsft_lite.study import module_of
from qsft_lite.tasks.agent_study import spread
from qsft_lite.tasks.alfworld.games import world_of

TASKS = ("webshop", "alfworld")


def small_task(name, **changes):
    module = module_of(name)
    settings = dataclasses.replace(module.PROFILES["smoke"], games=30, **changes)
    return module.TASK(settings, 0)


@pytest.fixture(scope="module", params=TASKS)
def task(request):
    return small_task(request.param)


@pytest.fixture(scope="module")
def cloned(task):
    return task.clone()


@pytest.fixture(scope="module")
def played(task, cloned):
    # Nearly at random, so that there are words that make sense, too.
    return task.play(task.policy(cloned, temperature=3.0), test=True)


def test_no_game_of_the_test_is_one_of_validation_or_of_training(task):
    parts = [{str(start) for start in task.starts(test)} for test in (True, False)]
    assert parts[0] and parts[1] and not parts[0] & parts[1]
    whole = {str(start) for start in small_task("alfworld", test_games=274).starts(test=True)}
    assert len(whole) == 274


def test_invalid_actions_are_counted_as_the_environment_calls_them(task, played):
    answers = [text for game in played.transcripts for text in game["text"][2::2]]
    told = task.describe(played)
    assert told["invalid actions"] == pytest.approx(np.mean([a == "invalid\n" for a in answers]))
    assert told["turns"] == pytest.approx(len(answers) / len(played.transcripts))


def test_success_is_told_by_rooms_and_by_type_of_task():
    task = small_task("alfworld", longest_game=50)
    expert = module_of("alfworld").PLAYERS["careless"](0, slip=0.6)
    result = task.play(expert, test=True)
    told = task.describe(result)
    by_hand = {}
    for start, won in zip(task.starts(test=True), result.returns, strict=True):
        kind = world_of(start["game"]).game.goal.task_type
        for group in (start["game"].split("/")[0], kind):
            by_hand.setdefault(group, []).append(won)
    assert 0 < result.mean < 1
    assert {name: told[name] for name in by_hand} == {
        name: pytest.approx(np.mean(wins)) for name, wins in by_hand.items()
    }


def test_a_turn_is_discounted_once_and_a_lost_game_is_over(task):
    gamma = task.settings.gamma
    for game, encoded in zip(task.games, task.episodes, strict=True):
        is_action = np.array(encoded["action_mask"])
        turns, paid = sum(game["is_action"]), sum(game["reward"])
        first = np.array(encoded["return_to_go"])[is_action][0]
        assert first == pytest.approx(gamma ** (turns - 1) * paid, abs=1e-6)


def test_games_longer_than_a_row_are_left_out(task):
    sizes = sorted(len(ids) for ids in task.episodes["input_ids"])
    middle = sizes[len(sizes) // 2]
    fewer = dataclasses.replace(task.settings, row_tokens=middle)
    kept = module_of(task.__class__.__module__.split(".")[-2]).TASK(fewer, 0)
    assert sorted(len(ids) for ids in kept.episodes["input_ids"]) == [
        size for size in sizes if size <= middle
    ]


def test_what_is_measured_of_a_clone_is_its_cross_entropy_in_nats_an_action(task, cloned):
    games = task.recorded(task.settings.measured_games, "held out")
    total, actions = 0.0, 0
    for game in games:
        ids, places = [start_id(task.tokenizer)], []
        for text, is_action in zip(game["text"], game["is_action"], strict=True):
            new = task.tokenizer(text)["input_ids"]
            places += range(len(ids), len(ids) + len(new)) if is_action else []
            ids += new
        with torch.no_grad():
            log_p = cloned.behavior(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        total -= sum(log_p[place - 1, ids[place]].item() for place in places)
        actions += sum(game["is_action"])
    told = task.measure(cloned)
    assert set(told) == {"cross-entropy", "estimated KL"}
    assert told["cross-entropy"] == pytest.approx(total / actions, rel=1e-5)
    less = told["cross-entropy"] - told["estimated KL"]
    assert less == pytest.approx(cross_entropy_of_players(task, games), rel=1e-9)


def test_games_that_no_player_plays_are_refused_and_so_are_none(monkeypatch):
    task = small_task("alfworld")
    monkeypatch.setattr(task, "log_likelihood", lambda texts: -np.inf)
    with pytest.raises(ValueError, match="game 0 of the measured ones cannot be of the data's"):
        _ = task.held_out
    with pytest.raises(ValueError, match="all 2 measured games are longer than 2 tokens"):
        _ = small_task("alfworld", row_tokens=2).held_out


def cross_entropy_of_players(task, games):
    """Of the behavior policy: who plays is told action by action, as Bayes has it."""
    module = module_of("webshop" if "webshop" in type(task).__module__ else "alfworld")
    if module is module_of("webshop"):
        shares = {"human": 0.8, "first hit": 0.1, "random": 0.1}
        players = [module.PLAYERS[name](task.env.catalog, format="short") for name in shares]

        def chance(player, history, action):
            return player.chance(player.visit(history), action.removesuffix("\n"))

    else:
        shares = {"careless": 0.2, "half_informed": 0.4, "wanderer": 0.4}
        players = [module.PLAYERS[name]() for name in shares]

        def chance(player, history, action):
            return player.chance(history, action)

    total, actions = 0.0, 0
    for texts in games["text"]:
        belief = np.array(list(shares.values()))
        for place in range(1, len(texts), 2):
            history = "".join(texts[:place])
            taken = np.array([chance(player, history, texts[place]) for player in players])
            likely = belief @ taken
            belief = belief * taken / likely
            total -= np.log(likely)
            actions += 1
    return total / actions


@pytest.mark.parametrize("written", ["short", "text"])
@pytest.mark.parametrize("name", TASKS)
def test_players_do_as_often_what_their_chances_say(name, written):
    """Each of the data's players, asked 400 times at moments of a game: chi-squared."""
    task = small_task(name, format=written)
    game = task.recorded(3, "held out")[0]["text"]
    for place in (1, 3, 5):
        history = "".join(game[:place])
        if name == "webshop":
            if place == 1:
                continue  # a search has more than 400 forms, see the words' own test
            players = [
                module_of(name).PLAYERS[one](task.env.catalog, 7, format=written)
                for one in ("human", "first hit", "random")
            ]
        else:
            players = [module_of(name).PLAYERS[one](7) for one in task.behavior]
        for player in players:
            done = Counter(player.act([history])[0] for _ in range(400))
            if name == "webshop":
                visit = player.visit(history)
                said = {one: player.chance(visit, one.removesuffix("\n")) for one in done}
            else:
                said = {one: player.chance(history, one) for one in done}
            assert min(said.values()) > 0 and sum(said.values()) <= 1 + 1e-9
            never = 1 - sum(said.values())
            assert never < 0.15  # of so many kinds some are not met
            expected = np.array([400 * said[one] for one in done])
            squares = (np.array(list(done.values())) - expected) ** 2 / expected
            assert squares[expected > 5].sum() < 5 * (expected > 5).sum() + 15


def test_values_are_measured_beside_a_constant(task, cloned):
    ours = task.train("q_sft", cloned)
    told = task.measure(ours)
    games = task.encoded(task.recorded(task.settings.measured_games, "held out"))
    returns = []
    for game in games:
        mask = np.append(game["action_mask"], False)
        last = mask[:-1] & ~mask[1:]
        returns += np.array(game["return_to_go"])[last].tolist()
    assert told["variance of returns"] == pytest.approx(np.var(returns), rel=1e-5)
    assert 0 <= told["squared error to the return"] <= 1
    ours.values.config.q_sft_prior = 1 - 1e-9  # every value is about 1 now
    errors = np.mean((1 - np.array(returns)) ** 2)
    assert task.measure(ours)["squared error to the return"] == pytest.approx(errors, abs=1e-3)


@given(st.integers(1, 40), st.integers(1, 100))
def test_spread_takes_all_before_any_twice(size, count):
    found = spread(range(size), count)
    times = np.bincount(found, minlength=size)
    assert len(found) == count and times.max() - times.min() <= 1
    assert count > size or found == sorted(found)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("written", ["short", "text"])
def test_a_pretrained_model_is_trained_and_plays(name, written, tmp_path):
    """From a folder, with a tokenizer of bytes: its words are many tokens, and it has no dummy."""
    tokenizer = byte_level(["go to", "click[", "search["])
    model = small_model(tokenizer, layers=1, width=16, heads=2, context=40_000, seed=0)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    changes = {"model": str(tmp_path), "format": written, "row_tokens": 4_096, "batch_rows": 2}
    settings = dataclasses.replace(module_of(name).PROFILES["smoke"], games=6, **changes)
    if name == "alfworld":
        settings = dataclasses.replace(settings, longest_game=4, rooms="bathroom")
    task = module_of(name).TASK(settings, 0)
    cloned = task.clone()
    ours = task.train("q_sft", cloned)
    assert len(cloned.tokenizer) == len(tokenizer) + ("<dummy>" not in tokenizer.get_vocab())
    starts = task.starts(test=True)[:2]
    policy = task.policy(ours, beta=8.0, relative_support=0.5)
    played = evaluate(policy, task.env, 2, 0, options=starts)
    texts = [game["text"][0] for game in task.games]
    begin = "WebShop [SEP]" if name == "webshop" else "-= Welcome"
    assert all(text.startswith(begin) == (written == "text") for text in texts)
    assert len(played.returns) == 2 and task.measure(ours)["cross-entropy"] > 0
