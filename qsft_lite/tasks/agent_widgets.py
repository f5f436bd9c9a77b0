"""What the explorers of WebShop and ALFWorld share: replay, bars of next actions, and playing."""

from __future__ import annotations

import copy
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ipywidgets
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qsft_lite import viz
from qsft_lite.policy.cached import CachedPolicy, ContextError
from qsft_lite.policy.whole_actions import ask_actions
from qsft_lite.viz.explorers import choice, show_explorer
from qsft_lite.viz.plots import HIGHLIGHT, VALUE_COLORS, value_bar

BARS = 10  # actions shown
PANEL = 3.7  # inches of their panel
FLOOR = "#f4f4f4"
NOT_YET, RECORDED = "(choose)", "(back to the recorded)"
GREY = "#666666"
TOO_LONG = "longer than the network reads"


class Played(NamedTuple):
    """A game up to some turn: its texts, the last info and reward, and whether it is over."""

    texts: list[str]
    info: dict[str, Any]
    reward: float
    over: bool


def replay(env: Any, start: dict[str, Any], texts: Sequence[str], turn: int) -> Played:
    """The first turns of a transcript, played again. env: one that nobody else plays.

    Raises ValueError for a turn that the transcript does not have, or one of another game.
    """
    turns = len(texts) // 2
    if not 0 <= turn <= turns:
        raise ValueError(f"the transcript has {turns} turns, got turn {turn}")
    text, info = env.reset(options=start)
    if text != texts[0]:
        raise ValueError(f"the transcript is not of the game {start}: it begins {texts[0]!r:.80}")
    played, reward, over = [text], 0.0, False
    for action in texts[1 : 1 + 2 * turn : 2]:
        text, reward, done, truncated, info = env.step(action)
        played += [action, text]
        over = done or truncated
    return Played(played, info, reward, over)


def segments(texts: Sequence[str]) -> list[tuple[str, bool]]:
    """The texts of a transcript, each with whether it is an action."""
    return [(text, place % 2 == 1) for place, text in enumerate(texts)]


def short(text: str, letters: int) -> str:
    """A text of so many letters at most."""
    return textwrap.shorten(text, letters, placeholder=" …")


def written(policy: CachedPolicy, texts: Sequence[str]) -> str:
    """What the policy writes here, always the same; the policy stays as it is."""
    own = copy.copy(policy)
    own.reset(0)
    return own.act([segments(texts)])[0].strip()


def next_actions(
    policy: CachedPolicy, texts: Sequence[str], valid: Sequence[str], taken: str
) -> pd.DataFrame | None:
    """What the policy thinks of the valid next actions and of the one that was taken, best first.

    taken: may be one that means nothing; "" where the transcript ends. A row has ``action``,
    without its line's end, ``pi``, ``pi_hat`` and, if the policy has values, ``Q``; ``shade`` in
    [0, 1], the value that colors it, or else pi; ``valid`` and ``taken``. None where the transcript
    is longer than the models' context.
    """
    asked = list(dict.fromkeys([*valid, *([taken] if taken else [])]))
    try:
        table = ask_actions(policy, segments(texts), [f"{action}\n" for action in asked])
    except ContextError:
        return None
    table["action"] = asked
    table["shade"] = table["Q" if "Q" in table else "pi"].clip(0, 1)
    table["valid"] = table["action"].isin(valid)
    table["taken"] = table["action"] == taken
    order = ["Q", "pi"] if "Q" in table else ["pi"]
    return table.sort_values(order, ascending=False, kind="stable", ignore_index=True)


def draw_beside(
    size: tuple[float, float],
    draw: Callable[[Axes], None],
    table: pd.DataFrame | None,
    title: str,
    *,
    end: str,
) -> Figure:
    """A picture, and on its right the bars of `draw_actions` with the scale of the colors.

    size: of the picture in inches; its axes have the inch as their unit. draw: what draws it.
    table: of `next_actions`; None where there are none, which `end` then says in its place. title:
    two lines above all.
    """
    width, height = size[0] + PANEL + 0.5, size[1] + 0.95

    def place(left: float, bottom: float, wide: float, high: float) -> tuple[float, ...]:
        return left / width, bottom / height, wide / width, high / height

    with viz.figure((width, height), fixed=True) as figure:
        picture = figure.add_axes(place(0.1, 0.1, *size))
        picture.set(xlim=(-0.02, size[0]), ylim=(-0.02, size[1] + 0.02), facecolor=FLOOR)
        draw(picture)
        viz.bare(picture)
        left = size[0] + 0.4
        panel = figure.add_axes(place(left, 0.85, PANEL, size[1] - 0.75))
        if table is None:
            panel.set_title(end)
            viz.bare(panel)
        else:
            draw_actions(panel, table)
            bar = figure.add_axes(place(left, 0.52, 0.9 * PANEL, 0.14))
            name = "Q, the value of an action" if "Q" in table else "π of an action (no values)"
            value_bar(figure, None, name, cax=bar, orientation="horizontal")
        above = {"x": 0.1 / width, "y": 1 - 0.08 / height, "ha": "left", "fontsize": 12}
        figure.suptitle(title, parse_math=False, **above)
    return figure


def draw_actions(axes: Axes, table: pd.DataFrame, *, width: int = 40) -> None:
    """The best of `next_actions` and the one taken, each with bars of Q, pi and pi_hat.

    width: letters of an action's text. The one taken has an arrow before it.
    """
    shown, valid = table[(table.index < BARS) | table["taken"]], int(table["valid"].sum())
    count = f"{BARS} best of {valid}" if valid > BARS else valid
    axes.set_title(f"{count} next actions", fontsize=12)
    heads = {"Q": "Q", "pi": "π", "pi_hat": "π̂, played"}
    columns = [name for name in heads if name in table]
    for place, name in enumerate(columns):
        axes.text(place / 3, -0.75, heads[name], va="center", fontsize=11)
    bars = []  # of each its left end, row, length and color
    for row, line in enumerate(shown.to_dict("records")):
        sign = "➤ " * line["taken"] + "invalid: " * (not line["valid"])
        text = short(sign + line["action"], width)
        look = {"fontsize": 10, "color": HIGHLIGHT if line["taken"] else "black"}
        axes.text(0, row - 0.2, text, va="center", parse_math=False, **look)
        for place, name in enumerate(columns):
            share = min(max(line[name], 0.0), 1.0)
            colors = {"Q": VALUE_COLORS(share), "pi": viz.method_color("bc")}
            color = colors.get(name, viz.method_color("q_sft"))
            bars.append((place / 3, row + 0.21, 0.19 * share, color))
            number = {"va": "center", "fontsize": 10, "color": GREY}
            told = "<.01" if 0 < line[name] < 0.005 else f"{line[name]:.2f}"
            axes.text(place / 3 + 0.2, row + 0.21, told, **number)
    left, rows, lengths, fills = zip(*bars, strict=True)
    left = np.array(left)
    # Two collections: a hundred bars of their own would take longer than all else.
    axes.hlines(rows, left, left + 0.19, colors="#ececec", lw=8)
    axes.hlines(rows, left, left + lengths, colors=fills, lw=8)
    axes.set(xlim=(0, 1), ylim=(BARS + 0.5, -1.0))
    viz.bare(axes)


def play_explorer(
    draw: Callable[[dict[str, Any], Sequence[str], int], Figure],
    follow: Callable[[dict[str, Any], Sequence[str], int], Played],
    choices: Callable[[Played], Sequence[str]],
    starts: Sequence[dict[str, Any]],
    transcripts: Sequence[Mapping[str, Any]],
    alt: str,
    *,
    steps: int,
    game: int = 1,
    turn: int = 0,
) -> None:
    """Step through games turn by turn, and play on from any turn oneself.

    Controls: the game; the turn, where one beyond the end stands for the end; the next action,
    which is taken at once, and the game goes on from there as one plays.

    Args:
        draw: of a start, a transcript's texts and the turn.
        follow: `replay` of a start, texts and a turn.
        choices: the next actions on offer.
        starts: reset's options of each game; transcripts: rows with its text.
        steps: the most turns of a game.
        game, turn: those shown at the start.

    Raises:
        ValueError: no games, not one transcript for each start, or a start value not on offer.
    """
    if not starts or len(starts) != len(transcripts):
        raise ValueError(f"{len(starts)} starts and {len(transcripts)} transcripts: not one each")
    recorded = [list(row["text"]) for row in transcripts]
    games = [list(texts) for texts in recorded]
    numbers, slide = range(1, len(games) + 1), ipywidgets.SelectionSlider
    controls = {
        "game": choice("game", "game", game, numbers, slide),
        "turn": choice("turn", "turn", turn, range(steps + 1), slide),
        "action": choice("action", "play on", NOT_YET, [NOT_YET]),
    }

    def draw_turn(game: int, turn: int, action: str) -> Figure:
        start, place = starts[game - 1], game - 1
        if action == RECORDED:
            games[place] = list(recorded[place])
        turn = min(turn, len(games[place]) // 2)
        if action not in (NOT_YET, RECORDED):
            texts = [*games[place][: 1 + 2 * turn], f"{action}\n", ""]
            turn += 1
            games[place] = follow(start, texts, turn).texts
        now = follow(start, games[place], turn)
        back = [RECORDED] if games[place] != recorded[place] else []
        controls["action"].options = [NOT_YET, *back, *choices(now)]
        controls["action"].value = NOT_YET
        controls["turn"].value = turn
        return draw(start, games[place], turn)

    show_explorer(draw_turn, controls, alt)
