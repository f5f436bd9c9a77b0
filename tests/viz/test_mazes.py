"""Mazes: what is written where, in colors that are seen on what they are written on."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from test_method_colors import distance

from qsft_lite.tabular import mdps
from qsft_lite.viz import plots

MAZE = mdps.stitching_maze()
VALUES = np.linspace(0, 1, MAZE.mdp.n_states)


def drawn(**options):
    axes = Figure().subplots()
    plots.draw_maze(axes, MAZE, **options)
    return axes


def words(axes):
    return sorted(text.get_text() for text in axes.texts if text.get_text())


def test_starts_and_the_goal_are_written_and_traps_are_crossed():
    axes = drawn(values=VALUES)
    assert words(axes) == ["G", "S", "S", "S", "S"]
    crosses = {tuple(np.mean(line.get_xydata(), axis=0)) for line in axes.lines}
    assert crosses == {(2, 2), (4, 2), (6, 2), (8, 2)} and len(axes.lines) == 8


@pytest.mark.parametrize("deuteranopia", [False, True])
@pytest.mark.parametrize("colors", [plots.VALUE_COLORS, plots.COUNT_COLORS])
def test_marks_are_seen_on_every_cell(colors, deuteranopia):
    for share in np.linspace(0, 1, 21):
        value = to_hex(colors(share))
        assert distance(value, plots.ink(share, colors=colors), deuteranopia) > 30
    assert distance(plots.TRAP["facecolor"], "white", deuteranopia) > 80  # the cross in a trap


def test_marks_are_black_on_light_values_and_where_there_is_none():
    assert [plots.ink(value) for value in (0, 0.4, 0.6, 1, np.nan)] == ["white"] * 2 + ["black"] * 3
    assert plots.ink(2.0, limits=(0, 10)) == "white"
    assert plots.ink(0.0, colors=plots.COUNT_COLORS) == "black"


def test_pieces_carry_their_numbers_at_their_doors():
    axes = drawn()
    plots.draw_pieces(axes, MAZE, mdps.stitching_paths(MAZE))
    at = {t.get_text(): t.get_position() for t in axes.texts if t.get_text().isdigit()}
    assert [np.round(at[number]).tolist() for number in "1234"] == [[0, 0], [2, 0], [4, 0], [6, 0]]
    colors = {
        text.arrow_patch.get_edgecolor()
        for text in axes.texts
        if hasattr(text, "arrow_patch") and text.arrow_patch
    }
    assert len(colors) == 4
