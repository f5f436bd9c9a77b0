"""The robot's study: its starts, its halves, and what it says of games and networks."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_studies import LESS

from qsft_lite.baselines import TrainedMethod
from qsft_lite.data import start_id
from qsft_lite.data.images import load_image
from qsft_lite.evaluate import evaluate
from qsft_lite.models import image_tokens, pixel_rule, small_model, word_tokenizer
from qsft_lite.study import ROWS, Study, changed, run
from qsft_lite.study.rows import CLONING
from qsft_lite.tasks.manipulation import data
from qsft_lite.tasks.manipulation.players import StatePlayer, is_half_way
from qsft_lite.tasks.manipulation.starts import HORIZONS
from qsft_lite.tasks.manipulation.study import AXES, PROFILES, ManipulationTask
from qsft_lite.tasks.manipulation.study import ROWS as OWN_ROWS
from qsft_lite.tasks.manipulation.text import COLORS, read_states, state_texts

FORMATS = ("image", "state")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Pictures go to a folder of these tests."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data.platformdirs, "user_cache_dir", lambda name: str(folder / name))
        yield folder


def a_task(*changes, seed=0):
    return ManipulationTask(changed(PROFILES["smoke"], changes), seed)


def whole_games(*changes):
    """With games as long as the task lets them be."""
    return a_task("format=state", "longest_game=0", "test_games=12", "bins=15", *changes)


@pytest.mark.parametrize("format", FORMATS)
def test_it_runs_for_methods_of_every_kind(format, tmp_path, monkeypatch):
    monkeypatch.setenv("QSFT_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("QSFT_THREADS", "1")
    changes = {**LESS["manipulation"], "format": format}
    keys = ["return_conditioned", "ilql", "q_sft", "q_transformer"]
    options = {"methods": keys, "changes": changes, "output": tmp_path / "runs"}
    study = Study.of("manipulation", "smoke", **options)
    result = run(study, quiet=True)
    shown, measured = result["tables"].values()
    assert [row["method"] for row in shown] == [
        *("Sharpened cloning", "Return-conditioned", "ILQL", "Q-SFT (ours)", "Q-Transformer"),
    ]
    for row in shown:
        assert 0 <= row["invalid actions"] <= 1 and 0 <= row["wins"] <= row["half way"] <= 1
    assert shown[-1]["invalid actions"] == 0  # it chooses among the bins of a dimension
    assert all(row["cross-entropy"] > 0 for row in measured)
    assert [row["variance of returns"] is None for row in measured] == [True] * 2 + [False] * 3
    assert list(result["headline"])[:2] == ["Data", "Random"]
    assert result["headline"]["Data"] > 0
    recorded = json.loads(next((tmp_path / "results").iterdir()).read_text())
    assert recorded["raw"]["bins"] == study.of_seed(0).bins.as_dict()
    assert run(study, quiet=True) == result


def test_its_rows_are_those_of_all_tasks_and_q_transformer():
    assert list(OWN_ROWS) == [*ROWS, "q_transformer"]


@pytest.mark.parametrize("name", HORIZONS)
def test_no_recorded_episode_does_what_every_test_game_asks_for(name):
    """The start is the prior's, the goal the task's: halves must be joined."""
    task = a_task("format=state", f"task={name}", "games=200")
    for test in (True, False):
        assert {start["start"] for start in task.starts(test)} == {"prior"}
    assert not is_half_way(name, task.test_tables()).any()
    first = read_states([text[0] for text in task.games["text"]])
    from_half_way = is_half_way(name, first)
    won = np.array([sum(reward) for reward in task.games["reward"]])
    assert 0.35 < from_half_way.mean() < 0.65
    assert won[from_half_way].mean() > 0.4 and not won[~from_half_way].any()


def test_games_of_the_test_are_the_same_for_all_and_none_is_one_of_validation():
    task = a_task("format=state")
    clone = task.clone()
    policies = [task.policy(clone, temperature=t) for t in (1.0, 3.0)]
    policies.append(StatePlayer("tray", bins=task.bins))
    starts = [
        [[game["text"][0] for game in task.play(policy, test).transcripts] for policy in policies]
        for test in (True, False)
    ]
    for same in starts:
        assert same[0] == same[1] == same[2]
    assert not set(starts[0][0]) & set(starts[1][0])
    assert state_texts("tray", task.test_tables()) == starts[0][0]
    seen = a_task("format=image", seed=1)
    assert [one.tolist() for one in dataclasses.astuple(seen.test_tables())] == [
        one.tolist() for one in dataclasses.astuple(task.test_tables())
    ]


@pytest.mark.parametrize("name", HORIZONS)
def test_the_whole_script_alone_reaches_the_goal(name):
    task = whole_games(f"task={name}", "test_games=40")
    levels = task.levels()
    assert levels.pop(task.best) > 0.9
    assert list(levels) == ["Random", "Scripts of the first half", "Scripts of the second half"]
    assert max(levels.values()) < 0.1
    assert set(a_task("longest_game=3").levels().values()) == {0.0}


@pytest.mark.parametrize("name", ["tray", "drawer"])
def test_what_is_said_of_games_is_what_their_states_say(name):
    task = whole_games(f"task={name}")
    result = task.play(StatePlayer(name, noise=0.5, bins=task.bins), test=True)
    half = []
    for game in result.transcripts:
        half.append(is_half_way(name, read_states(game["text"][::2])).any())
    won = np.array([sum(game["reward"]) for game in result.transcripts]) == 1
    steps = np.array([len(game["text"]) // 2 for game in result.transcripts])
    assert 0 < won.sum() < len(won)
    assert task.describe(result) == {
        "half way": np.mean(half),
        "success from half way": pytest.approx(won.sum() / np.sum(half)),
        "steps to success": pytest.approx(steps[won].mean()),
        "invalid actions": 0,
    }
    assert task.half_way(result).tolist() == half


def test_a_game_that_gets_nowhere_has_no_steps_to_success():
    task = a_task("format=state")
    idle = SimpleNamespace(act=lambda histories: ["x0 y0\n"] * len(histories))
    said = task.describe(task.play(idle, test=True))
    assert (said["half way"], said["invalid actions"]) == (0, 1)
    assert np.isnan([said["success from half way"], said["steps to success"]]).all()


def test_games_in_pictures_are_described_as_those_in_words():
    """Nothing that is written says where the block is; the games are played again."""
    words = whole_games("test_games=1")
    pictures = a_task("format=image", "longest_game=0", "test_games=1", "bins=15")
    result = words.play(StatePlayer("tray", bins=words.bins), test=True)
    actions = iter(result.transcripts[0]["text"][1::2])
    same = SimpleNamespace(act=lambda histories, images: [next(actions)])
    again = pictures.play(same, test=True)
    assert "<image>" in again.transcripts[0]["text"][0]
    assert again.mean == 1 and pictures.describe(again) == words.describe(result)


@pytest.mark.parametrize("format", FORMATS)
def test_rewards_and_discounts_come_with_the_last_number_of_an_action(format):
    task = a_task(f"format={format}", "games=40", "gamma=0.9")
    pieces = iter(task.episodes)
    for game in task.games:
        turns, won = len(game["text"]) // 2, sum(game["reward"])
        seen = 0
        while seen < turns:
            piece = next(pieces)
            size = len(piece["input_ids"])
            assert size <= task.settings.row_tokens
            at = np.flatnonzero(piece["action_mask"]).reshape(-1, 8)
            texts = [task.tokenizer.decode([piece["input_ids"][i] for i in turn]) for turn in at]
            assert texts == game["text"][1::2][seen : seen + len(at)]
            left = turns - seen - np.arange(len(at))
            reward, discount = (np.array(piece[name])[at] for name in ("reward", "discount"))
            assert (discount[:, :-1] == 1).all() and np.allclose(discount[:, -1], 0.9)
            assert not reward[:, :-1].any()
            assert reward[:, -1].tolist() == [won * (more == 1) for more in left]
            returns = np.array(piece["return_to_go"])[at]
            assert np.allclose(returns, (won * 0.9 ** (left - 1))[:, None])
            following = np.array(piece["next_action"])[at[:, -1]]
            seen += len(at)
            # What ran out of steps is not over.
            if seen == turns:
                assert following[-1] == (-1 if game["done"] else size)
    assert next(pieces, None) is None


@pytest.fixture(scope="module", params=FORMATS)
def task(request, cache):
    return a_task(f"format={request.param}")


@pytest.fixture(scope="module")
def cloned(task):
    return task.clone()


@torch.no_grad()
def test_what_is_measured_of_a_clone_is_its_cross_entropy_in_nats_an_action(task, cloned):
    games = task.recorded(task.settings.measured_games, "held out")
    assert games["text"][:] != task.recorded(2, "behavior")["text"][:]
    total, actions = 0.0, 0
    for game in games:
        for turn in range(len(game["text"]) // 2):
            state, action = game["text"][2 * turn : 2 * turn + 2]
            pictures, extra = [], {}
            ids = [start_id(task.tokenizer)]
            before, image, after = state.partition("<image>")
            ids += task.tokenizer(before)["input_ids"]
            if image:
                pictures = [load_image(game["images"][turn])]
                extra["pixel_values"] = pixel_rule(cloned.behavior)(pictures)
                ids += [task.tokenizer.get_vocab()["<image>"]] * image_tokens(cloned.behavior)
                ids += task.tokenizer(after)["input_ids"]
            own = task.tokenizer(action)["input_ids"]
            whole = torch.tensor([[*ids, *own]])
            log_p = cloned.behavior(whole, **extra).logits[0].double().log_softmax(-1)
            total -= sum(log_p[len(ids) - 1 + i, own[i]].item() for i in range(8))
            actions += 1
    assert task.measure(cloned) == {"cross-entropy": pytest.approx(total / actions, rel=1e-5)}


def test_values_are_measured_beside_a_constant(task, cloned):
    ours = task.train("q_sft", cloned)
    told = task.measure(ours)
    gamma, returns = task.settings.gamma, []
    for game in task.recorded(task.settings.measured_games, "held out"):
        turns, won = len(game["text"]) // 2, sum(game["reward"])
        returns += [won * gamma**left for left in range(turns)]
    assert told["variance of returns"] == pytest.approx(np.var(returns), rel=1e-5)
    ours.values.config.q_sft_prior = 1 - 1e-9  # every value is about 1 now
    errors = np.mean((1 - np.array(returns)) ** 2)
    assert task.measure(ours)["squared error to the return"] == pytest.approx(errors, abs=1e-3)


def test_an_explorer_prints_games(task, cloned, capsys):
    task.explorer(cloned, {"temperature": 2.0})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and all(line.endswith(" after 6 steps") for line in lines)
    assert {line.partition(":")[0] for line in lines} <= {*COLORS}


def test_a_network_from_scratch_begins_with_near_bins_alike(task):
    model, known = task.new_model(), task.tokenizer.get_vocab()
    rows = model.get_input_embeddings().weight
    first, near, far = (rows[known[f"{word} "]] for word in ("x0", "x1", "x4"))
    assert (first - near).norm() < (first - far).norm()
    assert (model.get_output_embeddings().weight == rows).all()


def test_what_is_played_may_be_repeated():
    """In words the same state may be another one: a step is smaller than what they tell apart."""
    task = a_task("format=state")
    asked = []

    class Inner:
        def act(self, histories, refused=None, images=None):
            asked.append((list(histories), refused, images))
            return ["an action\n"] * len(histories)

    policy = task.policy(TrainedMethod.cloned(task.new_model(), task.tokenizer))
    policy.policy = Inner()
    policy.act(["state\nan action\nstate\n"])
    assert asked == [(["state\n"], None, [[]])]


def test_bins_may_be_fitted_to_what_the_scripts_do():
    one, other = a_task("bin_kind=quantiles", "bins=7"), a_task("bin_kind=quantiles", seed=1)
    assert max(one.bins.counts) == 7 and one.bins.counts[6:] == (2, 2)
    assert other.bins.as_dict() == a_task("bin_kind=quantiles").bins.as_dict()
    assert np.diff(one.bins.edges[3]).max() < 0.1  # narrow where most turns are
    assert one.env.bins is one.bins


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("task=trays", "did you mean 'tray'"),
        ("format=images", "did you mean 'image'"),
        ("bin_kind=quantile", "did you mean 'quantiles'"),
        ("bins=1", "at least 2"),
    ],
)
def test_wrong_settings_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        a_task(change)


def test_a_pretrained_model_is_taken_as_it_is(tmp_path):
    words = word_tokenizer(a_task("format=state").env.texts)
    shape = {"layers": 1, "width": 16, "heads": 2, "context": 64, "seed": 5}
    model = small_model(words, **shape)
    model.save_pretrained(tmp_path), words.save_pretrained(tmp_path)
    task = a_task("format=state", f"model={tmp_path}")
    assert task.new_model().config.hidden_size == 16
    assert (task.new_model().lm_head.weight == model.lm_head.weight).all()
    assert task.acts == {"max_new_tokens": 32} and len(task.episodes) > 60
    played = evaluate(task.policy(task.clone()), task.env, 2, seed=0, max_steps=1)
    assert len(played.returns) == 2
    with pytest.raises(ValueError, match="sees no pictures"):
        a_task(f"model={tmp_path}").new_model()


def test_all_methods_choose_from_supports_that_let_rare_actions_through():
    study = Study.of("manipulation", "laptop")
    grids = [study.grid(row) for row in (CLONING, *study.rows.values())]
    supports = AXES["relative_support"]
    assert {grid["relative_support"] for grid in grids} == {supports}
    assert {grid["beta"] for grid in grids if "beta" in grid} == {AXES["beta"]}
    assert min(supports) == 0 and any(0 < one < 0.1 for one in supports)
    smoke = Study.of("manipulation", "smoke")
    assert len(smoke.grid(CLONING)["relative_support"]) == 1
