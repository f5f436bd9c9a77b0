"""Mazes as a study: measures against exact values, and levels against walks."""

import numpy as np
import pytest
from scipy import stats

from qsft_lite.baselines import TrainedMethod
from qsft_lite.study import changed
from qsft_lite.tasks.gridworld.study import PROFILES, GridworldTask


def task(*changes):
    return GridworldTask(changed(PROFILES["smoke"], changes), 0)


class Known(TrainedMethod):
    """A method that thinks what it is told of the four moves in each cell."""

    def values_of(self, prefixes, actions):
        log_pi, q = self.settings["log_pi"], self.settings["q"]
        cells = [self.settings["cells"].index(tuple(prefix)) for prefix in prefixes]
        assert all(list(ids) == list(self.settings["moves"]) for ids in actions)
        return [log_pi[cell] for cell in cells], None if q is None else [q[cell] for cell in cells]


def known(one, log_pi, q=None):
    tokenizer = one.tokenizer
    told = {
        "log_pi": log_pi,
        "q": q,
        "cells": [
            (tokenizer.bos_token_id, *tokenizer.convert_tokens_to_ids([text]))
            for text in one.env.state_texts
        ],
        "moves": tokenizer.convert_tokens_to_ids(list(one.env.action_texts)),
    }
    return Known("mc_returns", told, None, q, tokenizer, "", [])


def walked(mdp, behavior, cell, move, *, depth=200):
    """Q of the behavior by adding up rewards step by step, from the tables of the maze alone."""
    total, where, factor = mdp.R[cell, move], mdp.P[cell, move], 1.0
    for _ in range(depth):
        factor *= mdp.gamma
        pairs = where[:, None] * behavior
        total += factor * (pairs * mdp.R).sum()
        where = np.einsum("sa,sat->t", pairs, mdp.P)
    return total


def test_exact_values_measure_as_exact():
    one = task()
    mdp = one.maze.mdp
    q = np.array(
        [[walked(mdp, one.behavior, s, a) for a in range(4)] for s in range(len(one.maze.cells))]
    )
    found = one.measure(known(one, np.log(one.behavior), q))
    assert found["KL(pi_beta || pi_phi)"] == pytest.approx(0, abs=1e-12)
    assert found["error to Q of the behavior"] == pytest.approx(0, abs=1e-9)
    assert found["rank correlation with Q of the behavior"] == pytest.approx(1)
    assert found["error to Q*"] > 0.05


def test_measures_are_those_of_a_loop_over_cells():
    one, rng = task(), np.random.default_rng(0)
    cells = len(one.maze.cells)
    pi, q = rng.dirichlet(np.ones(4), cells), rng.uniform(size=(cells, 4))
    found = one.measure(known(one, np.log(pi), q))
    divergences, errors, ranks = [], [], []
    for cell in range(cells):
        beta = one.behavior[cell]
        divergences.append(sum(beta[a] * np.log(beta[a] / pi[cell, a]) for a in range(4)))
        exact = [walked(one.maze.mdp, one.behavior, cell, a) for a in range(4)]
        errors += [abs(q[cell, a] - exact[a]) for a in range(4)]
        if max(exact) - min(exact) > 1e-12:
            ranks.append(stats.spearmanr(np.round(exact, 12), q[cell]).statistic)
    assert found["KL(pi_beta || pi_phi)"] == pytest.approx(np.mean(divergences))
    assert found["error to Q of the behavior"] == pytest.approx(np.mean(errors))
    assert found["rank correlation with Q of the behavior"] == pytest.approx(np.mean(ranks))
    without = one.measure(known(one, np.log(pi)))
    assert list(without) == ["KL(pi_beta || pi_phi)"]


@pytest.mark.parametrize(
    ("layout", "optimum"), [("S..#.|.#...|..#..|T.T.G", 1.0), ("S#S|.#.|.#G", 0.5)]
)
def test_the_level_is_the_share_of_starts_from_which_a_walk_arrives(layout, optimum):
    """By walking along the drawing in all directions."""
    one = task(f"layout={layout.replace('|', ' ')}")
    drawn = {(r, c): x for r, row in enumerate(layout.split("|")) for c, x in enumerate(row)}
    arrived = []
    for start in (place for place, letter in drawn.items() if letter == "S"):
        seen, ahead = {start}, [start]
        while ahead:
            row, column = ahead.pop()
            for place in (
                (row + 1, column),
                (row - 1, column),
                (row, column + 1),
                (row, column - 1),
            ):
                if drawn.get(place, "#") not in "#T" and place not in seen:
                    seen.add(place)
                    ahead.append(place)
        arrived.append(any(drawn[place] == "G" for place in seen))
    assert one.levels() == {"Optimum": np.mean(arrived)} == {"Optimum": optimum}


def test_walks_of_the_data_start_anywhere_and_those_of_the_test_at_the_starts():
    one = task()
    first = {texts[0] for texts in one.recorded(300, "behavior")["text"]}
    assert len(first) > 0.8 * len(one.maze.cells)
    cells = {start["state"] for start in one.starts(test=True)}
    assert cells == set(np.flatnonzero(one.maze.mdp.initial)) and len(cells) >= 1
    parts = [str(one.recorded(30, part)["text"]) for part in ("behavior", "values", "held out")]
    assert len(set(parts)) == 3
    result = one.play(one.policy(TrainedMethod.cloned(one.new_model(), one.tokenizer)), test=False)
    assert len(result.returns) == one.settings.validation_games


def test_walks_of_the_corridor_are_its_pieces_and_only_recorded_moves_are_measured():
    """The pieces drawn by hand: (door's column, moves); the corridor is the second row."""
    one = task("corridor=true")
    walks = {" ".join("".join(texts).split()) for texts in one.recorded(400, "behavior")["text"]}
    pieces = set()
    for door in (0, 2, 4, 6):
        cells = [f"r0c{door}", *(f"r1c{door + step}" for step in range(3))]
        moves = ["down", "right", "right", "right" if door == 6 else "down"]
        pieces.add(" ".join(f"{cell} {move}" for cell, move in zip(cells, moves, strict=True)))
    assert walks == {f"{piece} end" for piece in pieces}
    assert {start["state"] for start in one.starts(test=True)} == {one.maze.state_at(0, 0)}
    # Right of a junction lies the goal, below it a pit; both were walked equally often.
    steps = [9 - column for column in range(9)]
    exact = {(1, column): one.settings.gamma ** (steps[column] - 1) for column in range(9)}
    q = np.full((len(one.maze.cells), 4), 7.0)  # of moves that nobody made: never looked at
    for state, (row, column) in enumerate(one.maze.cells):
        if row == 0:
            q[state, 2] = one.settings.gamma * exact[1, column]
        else:
            q[state, 1] = exact[1, column]
            q[state, 2] = 0.0
    log_pi = np.log(np.where(one.behavior > 0, one.behavior, 1e-9))
    found = one.measure(known(one, log_pi, q))
    assert found["KL(pi_beta || pi_phi)"] == pytest.approx(0, abs=1e-12)
    assert found["largest error to Q*"] == pytest.approx(0, abs=1e-9)
    assert found["its best moves, share of the optimum"] == pytest.approx(1)
    worse = q.copy()
    worse[one.maze.state_at(1, 2), 2] = 1.0
    found = one.measure(known(one, log_pi, worse))
    assert found["largest error to Q*"] == pytest.approx(1)
    assert found["error to Q*"] == pytest.approx(1 / 16)  # of sixteen recorded moves
    assert found["its best moves, share of the optimum"] == 0
