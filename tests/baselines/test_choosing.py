"""Choosing from a grid that widens: against brute force on a grid that is wide from the start."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsft_lite.baselines.choosing import CLONING_GRID, GREEDY_BETA, VALUE_GRID, as_options, choose

BETAS = [4.0**power for power in range(-3, 10)]
SUPPORTS = (0.0, 0.2, 0.5, 0.9)


def beside(beta, support):
    """A score that falls with the distance, in powers of two, from a beta and a support."""

    def score(options):
        return -abs(math.log2(options["beta"] / beta)) - abs(options["relative_support"] - support)

    return score


@given(
    st.floats(-7, 19),
    st.floats(0, 1),
    st.integers(0, 12).flatmap(lambda first: st.tuples(st.just(first), st.integers(first, 12))),
)
def test_one_peak_is_found_as_by_brute_force(power, support, part):
    first, last = part
    score = beside(2.0**power, support)
    choice = choose(
        score, {"beta": BETAS[first : last + 1], "relative_support": SUPPORTS}, widenings=12
    )
    wide = [{"beta": b, "relative_support": s} for b, s in itertools.product(BETAS, SUPPORTS)]
    assert choice.score == max(map(score, wide))
    assert score(choice.options) == choice.score


def test_new_candidates_alone_are_scored_and_all_are_told():
    seen = []

    def score(options):
        seen.append(options)
        return beside(1_000.0, 0.2)(options)

    choice = choose(score, {"beta": (4.0, 16.0), "relative_support": (0.0, 0.2)})
    assert choice.options == {"beta": 1024.0, "relative_support": 0.2}
    assert [row["beta"] for row in choice.tried[::2]] == [4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0]
    assert len(seen) == len(choice.tried) == len({tuple(row.items()) for row in seen}) == 12
    assert choice.message == ""
    assert {tuple(row) for row in choice.tried} == {("beta", "relative_support", "mean")}


def test_it_says_so_when_the_limit_is_reached():
    choice = choose(beside(1e5, 0.0), {"beta": (1.0, 4.0), "relative_support": (0.0,)}, widenings=2)
    assert choice.options["beta"] == 64.0
    assert choice.message == (
        "beta 64 is at the edge of what was tried, 1 to 64, after 2 widenings: "
        "the best one may lie beyond."
    )


def test_the_least_beta_wins_a_tie():
    choice = choose(lambda options: min(options["beta"], 512.0), VALUE_GRID)
    assert choice.options == {"beta": 512.0, "relative_support": 0.0}
    flat = choose(
        lambda options: 0.0, {"relative_support": SUPPORTS, "beta": (4.0, 16.0)}, widenings=0
    )
    assert flat.options == {"relative_support": 0.0, "beta": 4.0}
    assert choose(lambda options: 0.0, CLONING_GRID).options == {
        "temperature": 1.0,
        "relative_support": 0.0,
    }


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_natural_end_is_no_edge(sign):
    choice = choose(lambda options: sign * options["beta"], VALUE_GRID)
    end = {"beta": GREEDY_BETA, "relative_support": 0.0, "greedy": True}
    assert choice.options == (end if sign > 0 else {"beta": 0.0, "relative_support": 0.0})
    assert choice.message == ""
    betas = sorted({row["beta"] for row in choice.tried})
    assert betas[1] == (8.0 if sign > 0 else 8.0 / 4**4)  # but the gap beside it is looked into
    assert betas[-2] == (524_288.0 if sign > 0 else 8_192.0)


def test_greedy_cloning_is_one_candidate_and_the_temperature_falls():
    choice = choose(lambda options: -options.get("temperature", 0.05), CLONING_GRID)
    assert sum("greedy" in row for row in choice.tried) == 1
    assert choice.options["temperature"] == 0.0625 / 2**4
    assert choose(lambda options: "greedy" in options, CLONING_GRID).options == {"greedy": True}


def test_a_temperature_may_stand_beside_a_beta():
    given = {"beta": 8.0, "temperature": 0.5, "relative_support": 0.2}
    assert as_options(given) == given


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"betas": (1.0,)}, "no axis 'betas'; it knows beta, temperature, relative_support"),
        ({"beta": ()}, "values of beta must be increasing"),
        ({"beta": (4.0, 1.0)}, r"values of beta must be increasing .* not \[4.0, 1.0\]"),
        ({"beta": (-1.0, 1.0)}, "from 0 to"),
        ({"relative_support": (0.0, 1.5)}, "from 0 to 1"),
        ({"temperature": (math.nan,)}, "values of temperature"),
        ({"beta": (1.0,), "temperature": (0.0,)}, "temperature 0 is greedy cloning"),
    ],
)
def test_a_bad_grid_is_refused(grid, message):
    with pytest.raises(ValueError, match=message):
        choose(lambda options: 0.0, grid)


def test_a_score_must_be_finite():
    with pytest.raises(ValueError, match="the score of {'beta': 4.0} is nan, not a finite number"):
        choose(lambda options: math.nan, {"beta": (4.0,)})
