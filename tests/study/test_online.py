"""Rounds of play and learning, at their smallest."""

import dataclasses

import datasets
import numpy as np
import pytest

from qsft_lite.results import load_result
from qsft_lite.study import online
from qsft_lite.tasks.alfworld.games import Split

TINY = dataclasses.replace(
    online.PROFILES["wordle"]["smoke"],
    own={"words": 4, "batch_rows": 8, "even_starts": True},
    first_games=40,
    games=20,
    validation_games=4,
    test_games=4,
    learners=tuple(online.LEARNERS),
)


@pytest.fixture(scope="module")
def begun():
    task = online.task_of(TINY, seed=0)
    return task, online.first_methods(task, TINY)


def weights(network):
    return [weight.detach().clone() for weight in network.parameters()]


def same(one, other):
    return all((a == b).all() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("key", online.LEARNERS)
def test_games_grow_by_those_that_were_played(begun, key, monkeypatch):
    task, firsts = begun
    learner = online.LEARNERS[key]
    first_pi = firsts["bc"].behavior
    before, asked = weights(first_pi), []
    train = online._train

    def watched(task, method, begin, episodes, steps, **options):
        trained = train(task, method, begin, episodes, steps, **options)
        asked.append((method, len(episodes), options.get("returns_first"), trained))
        return trained

    monkeypatch.setattr(online, "_train", watched)
    first, second = online.online_rounds(task, learner, TINY, firsts[learner.method])
    assert same(weights(first_pi), before)
    assert [first["games"], second["games"]] == [40, 60]
    assert first["played"] is None and -6 <= second["played"] <= 0
    assert all(-6 <= one["score"] <= 0 for one in (first, second))
    methods = [(method, games, returns_first) for method, games, returns_first, _ in asked]
    last = asked[-1][-1]
    if learner.pi == "best":
        assert methods == [("bc", 12, None)]  # a fifth of all
    elif learner.pi == "distil":
        assert methods == [("q_sft_distilled", 60, None), (learner.method, 60, None)]
        assert not same(weights(last.behavior), before)
        assert same(weights(last.behavior), weights(asked[-2][-1].behavior))
    else:
        goes_on = 0.0 if key == "frozen" else None
        assert methods == [(learner.method, 60, goes_on)]
        assert same(weights(last.behavior), before)  # pi stands still
    read_anew = learner.pi == "distil" and learner.method == "q_sft"
    assert (second["stale"] is not None) == read_anew


def test_values_are_read_against_another_pi(begun):
    """What "stale" measures: the same network of q with the clone and with another pi."""
    task, firsts = begun
    trained = firsts["q_sft"]
    moved = online._train(task, "bc", firsts["bc"].behavior, task.episodes, 2).behavior
    stale = dataclasses.replace(trained, behavior=moved)
    prefix, ids = [[task.episodes[0]["input_ids"][0]]], [[5, 6, 7]]
    (before,), (after,) = (one.values_of(prefix, ids)[1] for one in (trained, stale))
    log_pi, log_moved = (one.values_of(prefix, ids)[0][0] for one in (trained, stale))
    shift = np.log(before / (1 - before)) - np.log(after / (1 - after))
    differences = log_moved - log_pi
    np.testing.assert_allclose(shift - shift[0], differences - differences[0], atol=1e-4)
    assert np.abs(shift).max() > 1e-3


def test_a_table_has_the_interval_of_the_seeds():
    rounds = [[{"score": -3.0}, {"score": -2.0}], [{"score": -3.5}, {"score": -1.5}]]
    (row,) = online.table({"A": rounds})
    assert row["round 0"] == -3.25 and row["last round, each seed"] == "-2.00, -1.50"
    half = 12.7062 * 0.5  # Student's t of one degree of freedom; 1 and 2 are .5 from their mean
    gain = {"mean": 1.5, "low": 1.5 - half, "high": 1.5 + half}
    assert row["last less first"] == pytest.approx(gain, abs=1e-3)
    assert online.table({"A": rounds[:1]})[0]["last less first"] == 1.0


@pytest.mark.parametrize("task", sorted(set(online.PROFILES) - {"wordle"}))
def test_rounds_of_other_tasks(task):
    settings = online.PROFILES[task]["smoke"]
    settings = dataclasses.replace(settings, own=settings.own | {"longest_game": 6})
    game = online.task_of(settings, seed=0)
    firsts = online.first_methods(game, settings)
    first, second = online.online_rounds(game, online.LEARNERS["distil"], settings, firsts["q_sft"])
    assert second["games"] > first["games"] and np.isfinite(second["played"])
    assert -1 <= first["rank"] <= 1 and -1 <= second["stale"] <= 1


def test_new_games_of_alfworld_are_of_its_rooms():
    task = online.task_of(online.PROFILES["alfworld"]["smoke"], seed=0)
    assert set(task.env.source.names) == set(Split("train", "bathroom").names)


def test_a_run_goes_on_where_it_was(tmp_path, monkeypatch):
    datasets.disable_progress_bars()
    monkeypatch.setenv("QSFT_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("QSFT_COMMAND", "")
    only = dataclasses.replace(TINY, learners=("own_best",))
    monkeypatch.setitem(online.PROFILES["wordle"], "smoke", only)
    online.run("wordle", "smoke", tmp_path / "pieces")
    found = load_result(tmp_path / "results" / "wordle_online.smoke.json")
    assert [len(seed) for seed in found["raw"]["Cloning its own best games"]] == [2]
    monkeypatch.setattr(online, "online_rounds", None)  # nothing is trained again
    online.run("wordle", "smoke", tmp_path / "pieces")
    again = load_result(tmp_path / "results" / "wordle_online.smoke.json")
    assert again["raw"] == found["raw"] and again["tables"] == found["tables"]
    other = dataclasses.replace(only, pi_steps=2)
    monkeypatch.setitem(online.PROFILES["wordle"], "smoke", other)
    with pytest.raises(TypeError):  # other settings: rounds would be played
        online.run("wordle", "smoke", tmp_path / "pieces")
