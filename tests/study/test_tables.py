"""Tables: means, intervals and edges, and those of all recorded results computed anew."""

import json

import numpy as np
import pytest
from places import ROOT
from scipy import stats

from qsft_lite.baselines.choosing import GREEDY_BETA
from qsft_lite.study import tables
from qsft_lite.study.__main__ import main


def test_rows_are_means_over_seeds_paired_by_game():
    def seed(cloned, ours):
        entry = {"options": {}, "grid": [], "tried": [], "success": 1.0}
        return {
            "Behavior cloning": {"scores": {"": {**entry, "returns": cloned}}},
            "Ours": {"scores": {"ratio": {**entry, "returns": ours}}},
        }

    found = [seed([-2, -4, -3], [-1, -3, -2]), seed([-4, -4, -5], [-3, -3, -4])]
    cloned, ours = tables.table(found, lowest=-6, data_mean=-4.0, best=-1.0)
    assert cloned["score"]["mean"] == pytest.approx(-22 / 6)
    assert ours["over sharpened cloning"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert ours["seeds"] == "-2.00, -3.33"
    assert ours["normalised"] == pytest.approx(50 + 50 * (-16 / 6 + 4) / 3)


@pytest.mark.parametrize(("over_seeds", "over_games"), [(0.0, 1.0), (0.05, 1.0), (0.3, 0.3)])
def test_intervals_hold_the_truth(over_seeds, over_games):
    """Nineteen times in twenty or a little more, three seeds in 500 shared games."""
    rng = np.random.default_rng(0)
    held = []
    for _ in range(400):
        scores = over_seeds * rng.normal(size=(3, 1)) + over_games * rng.normal(size=(1, 500))
        found = tables.interval(scores + rng.normal(size=(3, 500)))
        held.append(found["low"] <= 0 <= found["high"])
    assert 0.93 <= np.mean(held) <= 0.995


def test_an_interval_of_one_part_alone_is_that_of_student():
    means = np.array([1.0, 2.0, 4.0])
    seeds = tables.interval(np.tile(means[:, None], 10))
    expected = stats.t.interval(0.95, 2, means.mean(), stats.sem(means))
    assert (seeds["low"], seeds["high"]) == pytest.approx(expected)
    games = np.random.default_rng(0).normal(size=20)
    expected = stats.t.interval(0.95, 19, games.mean(), stats.sem(games))
    for scores in (games[None], np.tile(games, (3, 1))):
        found = tables.interval(scores)
        assert (found["low"], found["high"]) == pytest.approx(expected)


def test_games_from_one_start_count_as_one():
    once = np.random.default_rng(0).normal(size=(3, 50))
    start = list(range(50))
    assert tables.interval(np.c_[once, once], start + start) == pytest.approx(tables.interval(once))
    more = np.c_[once, once[:, :1]]  # the mean stays that of all games
    assert tables.interval(more, [*start, 0])["mean"] == pytest.approx(more.mean())


def test_edges_of_a_grid():
    betas = [{"beta": beta} for beta in (4.0, 16.0, 64.0)]
    assert tables.edges_of(betas[0], betas) == ["least beta"]
    assert tables.edges_of(betas[1], betas) == []
    assert tables.edges_of(betas[2], betas) == ["largest beta"]
    ends = [{"beta": 0.0}, *betas, {"beta": GREEDY_BETA, "greedy": True}]
    assert not any(tables.edges_of(options, ends) for options in ends)
    cloning = [{"temperature": t} for t in (0.5, 1.0)]
    assert tables.edges_of(cloning[0], cloning) == ["least temperature"]
    assert tables.edges_of(cloning[1], cloning) == []
    assert tables.edges_of(cloning[0], [*cloning, {"greedy": True}]) == []
    pairs = [  # a beta is at an end of those at its own temperature
        {"beta": weight / t, "temperature": t, "relative_support": 0.05}
        for weight in (1.0, 2.0, 4.0)
        for t in (0.5, 0.25)
    ]
    assert tables.edges_of(pairs[0], pairs) == ["least beta", "largest temperature"]
    assert tables.edges_of(pairs[3], pairs) == ["least temperature"]
    assert tables.edges_of({}, [{}]) == []


def test_recorded_tables_are_those_of_their_scores(tmp_path, capsys):
    """What data/results shows is what its scores say, for every recorded tables."""
    every = sorted((ROOT / "data" / "results").glob("*.record.json"))
    # Prompted play and rounds of play are recorded beside them, and are no studies; trainings of
    # pretrained models have a test of their own.
    every = [path for path in every if not path.name.startswith("pretrained_")]
    paths = [path for path in every if "seeds" in json.loads(path.read_text())["raw"]]
    assert len(paths) >= len(every) - 4
    for path in paths:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert main(["tables", *(str(tmp_path / path.name) for path in paths)]) == 0
    for path in paths:
        old, new = (json.loads(p.read_text()) for p in (path, tmp_path / path.name))
        assert old["tables"] == new["tables"] and old["headline"] == new["headline"], path.name
        for row in new["tables"][new["name"]]:
            single = len(new["raw"]["seeds"]) == 1
            alike = row["wins"] in (0, 1)  # in every game of every seed: nothing need vary
            assert single or alike or row["score"]["low"] < row["score"]["mean"]


def test_what_is_of_no_study_is_refused(tmp_path, capsys):
    path = ROOT / "data" / "results" / "alfworld_prompted.record.json"
    before = path.read_bytes()
    for name, message in ((path, "is of no study"), (tmp_path / "none.json", "none.json")):
        assert main(["tables", str(name)]) == 2
        assert message in capsys.readouterr().err
    assert path.read_bytes() == before


def test_a_mean_of_nothing_is_none():
    assert tables._mean([np.nan, np.nan]) is None
    assert tables._mean([np.nan, 2.0, 4.0]) == 3


def test_what_no_game_says_is_recorded_as_none():
    said = {"steps to success": np.nan, "half way": 0.25}
    row = {"scores": {"": {"grid": [], "returns": [0.0], "described": said}}}
    kept = tables.on_a_line({"Some": {**row, "seconds": 1, "commit": ""}})
    assert kept["Some"][""]["described"] == {"steps to success": None, "half way": 0.25}


def test_fractions_of_points_are_kept_in_a_record():
    row = {"scores": {"": {"grid": [], "returns": [0.0, -1.0, 0.3333]}}, "seconds": 1, "commit": ""}
    kept = tables._from_lines(tables.on_a_line({"Some": row}))
    assert kept["Some"]["scores"][""]["returns"] == [0.0, -1.0, 0.3333]


def test_scores_on_a_line_are_read_back_exactly():
    returns = [1.0, 0.0, -6.0, 2 / 3, 0.1 + 0.2, 1e-17, 5 / 6]
    entry = {"returns": returns, "grid": [{"beta": 0.5}], "options": {}}
    seed = {"ILQL": {"scores": {"": entry}, "seconds": 1.0, "commit": "abc"}}
    line = tables.on_a_line(seed)["ILQL"][""]["returns"]
    assert line.startswith("1 0 -6 0.666")
    assert tables._from_lines(tables.on_a_line(seed))["ILQL"]["scores"][""]["returns"] == returns
