"""What the explorers of WebShop and ALFWorld share: replay, bars of next actions, and playing."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ipywidgets
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qsft_lite import viz
from qsft_lite.policy.cached import CachedPolicy
from qsft_lite.policy.whole_actions import ask_actions
from qsft_lite.viz.explorers import choice, show_explorer
from qsft_lite.viz.plots import HIGHLIGHT, VALUE_COLORS

BARS = 10  # actions shown
NOT_YET, RECORDED = "(choose)", "(back to the recorded)"
GREY = "#666666"


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


def next_actions(
    policy: CachedPolicy, texts: Sequence[str], valid: Sequence[str], taken: str | None
) -> pd.DataFrame:
    """What the policy thinks of the valid next actions and of the one that was taken, best first.

    A row has ``action``, without its line's end, ``pi``, ``pi_hat`` and, if the policy has values,
    ``Q``; ``shade`` in [0, 1], the value that colors it, or else pi; ``valid`` and ``taken``.
    """
    asked = list(dict.fromkeys([*valid, *([] if taken is None else [taken])]))
    history = [(text, place % 2 == 1) for place, text in enumerate(texts)]
    table = ask_actions(policy, history, [f"{action}\n" for action in asked])
    table["action"] = asked
    table["shade"] = table["Q" if "Q" in table else "pi"].clip(0, 1)
    table["valid"] = table["action"].isin(valid)
    table["taken"] = table["action"] == taken
    order = ["Q", "pi"] if "Q" in table else ["pi"]
    return table.sort_values(order, ascending=False, kind="stable", ignore_index=True)


def shade_name(table: pd.DataFrame) -> str:
    """What the colors of `next_actions` mean."""
    return "Q, the value of an action" if "Q" in table else "π of an action (no values)"


def draw_actions(axes: Axes, table: pd.DataFrame, *, width: int = 42) -> None:
    """The best of `next_actions` and the one taken, each with bars of Q, pi and pi_hat.

    width: letters of an action's text. The one taken has an arrow before it.
    """
    shown = table[(table.index < BARS) | table["taken"]]
    columns = [name for name in ("Q", "pi", "pi_hat") if name in table]
    heads = {"Q": "Q", "pi": "π", "pi_hat": "π̂, played"}
    for place, name in enumerate(columns):
        axes.text(place / 3, -0.75, heads[name], va="center", fontsize=11)
    for row, line in enumerate(shown.to_dict("records")):
        sign = "➤ " * line["taken"] + "" if line["valid"] else "➤ invalid: "
        text = textwrap.shorten(line["action"], width, placeholder=" …")
        color = HIGHLIGHT if line["taken"] else "black"
        axes.text(0, row - 0.2, sign + text, va="center", fontsize=10, color=color)
        for place, name in enumerate(columns):
            left, share = place / 3, min(max(line[name], 0.0), 1.0)
            colors = {"Q": VALUE_COLORS(share), "pi": viz.method_color("bc")}
            fill = colors.get(name, viz.method_color("q_sft"))
            for length, look in ((1, "#ececec"), (share, fill)):
                bar = plt.Rectangle((left, row + 0.1), 0.19 * length, 0.22, facecolor=look, lw=0)
                axes.add_patch(bar)
            number = {"va": "center", "fontsize": 10, "color": GREY}
            axes.text(left + 0.2, row + 0.21, f"{line[name]:.2f}", **number)
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
        controls["turn"].value = turn
        return draw(start, games[place], turn)

    show_explorer(draw_turn, controls, alt)
