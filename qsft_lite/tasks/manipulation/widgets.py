"""Explorers of the robot's episodes; and what else a chapter shows of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets
import numpy as np
from matplotlib.figure import Figure

from qsft_lite.policy.cached import CachedPolicy
from qsft_lite.policy.last_line import LastLine
from qsft_lite.tasks.manipulation.asking import Asked
from qsft_lite.tasks.manipulation.bins import SWITCHES
from qsft_lite.tasks.manipulation.env import Manipulation
from qsft_lite.tasks.manipulation.film import animation, described, film_strip
from qsft_lite.tasks.manipulation.replay import (
    Moment,
    Player,
    moments_of,
    pictures_of,
    starts_of,
)
from qsft_lite.tasks.manipulation.scene import draw_scene
from qsft_lite.tasks.manipulation.value_map import value_map
from qsft_lite.viz.explorers import show_explorer, step_through

__all__ = [
    "animation",
    "described",
    "draw_scene",
    "film_strip",
    "moments_of",
    "pictures_of",
    "play_explorer",
    "scene_explorer",
    "starts_of",
    "value_map",
]

ALT = (
    "Left, a picture of the table and the robot's gripper at one step, and below it a line of the "
    "state's value over the steps. Right, for each of the eight numbers of an action, bars of the "
    "probabilities and values of its bins."
)
MOVES = {  # of each button its dimension and number
    "left": (0, -1.0),
    "right": (0, 1.0),
    "forward": (1, 1.0),
    "back": (1, -1.0),
    "up": (2, 1.0),
    "down": (2, -1.0),
    "close": (6, 1.0),
    "open": (6, -1.0),
}
POLICY, AGAIN = "as the policy", "start again"


def scene_explorer(
    policy: CachedPolicy | LastLine,
    env: Manipulation,
    starts: Sequence[Mapping[str, Any]],
    played: Sequence[Mapping[str, Any]],
    *,
    game: int = 1,
    step: int = 0,
) -> None:
    """Step through played episodes: the picture, its value, and all bins of the action taken.

    Args:
        policy: with values or without.
        env: one with the options of that which was played; it is left as it is.
        starts: of each episode, see `replay.starts_of`.
        played: rows of its transcripts.
        game, step: those shown at the start.

    Raises ValueError for no games, not one transcript for each start, a start value not on offer,
    or an episode of another start.
    """
    if len(starts) != len(played):
        raise ValueError(f"{len(starts)} starts and {len(played)} transcripts: not one each")
    asked = Asked(policy, env)
    games = [moments_of(env, *one) for one in zip(starts, played, strict=True)]
    every = [asked.values(moments) for moments in games]  # beforehand, or a redraw would wait

    def draw(game: int, turn: int) -> Figure:
        moments, values = games[game - 1], every[game - 1]
        actions = played[game - 1]["text"][1::2]
        action = actions[turn] if turn < len(actions) else None
        return draw_scene(asked, moments, turn, values=values, action=action)

    lengths = [len(row["text"]) // 2 for row in played]
    step_through(draw, {}, ALT, lengths=lengths, game=game, turn=step, first=0)


def play_explorer(
    policy: CachedPolicy | LastLine, env: Manipulation, start: Mapping[str, Any]
) -> None:
    """Move the gripper oneself, with what the policy would do beside it.

    A button moves it as far as one step can, or shuts or opens it; the gripper stays as it is when
    it moves. "as the policy" takes the policy's choice, "start again" the same table.

    Args: as of `scene_explorer`; start: arguments of the environment's reset.
    """
    asked = Asked(policy, env)
    player = Player(env, start)
    values = asked.values(player.moments)
    buttons = ipywidgets.ToggleButtons(
        options=[*MOVES, POLICY, AGAIN], value=None, style={"button_width": "95px"}
    )

    def draw(move: str | None) -> Figure:
        nonlocal player, values
        buttons.value = None
        now = player.moments[-1]
        if move == AGAIN:
            player = Player(env, start)
            values = asked.values(player.moments)
        elif move is not None and not now.over:
            bins = asked.own(now) if move == POLICY else move_bins(env, now, move)
            player.step(env.bins.write(bins[None])[0])
            if values is not None:
                values = np.append(values, asked.values(player.moments[-1:]))
        return draw_scene(asked, player.moments, len(player.moments) - 1, values=values)

    show_explorer(draw, {"move": buttons}, ALT)


def move_bins(env: Manipulation, now: Moment, move: str) -> np.ndarray:
    """(8,) bins of the action of a button; KeyError for another name than those of MOVES."""
    dimension, number = MOVES[move]
    action = np.zeros((1, 8))
    action[0, list(SWITCHES)] = 1.0 if now.state[8] < 0.5 else -1.0, -1.0
    action[0, dimension] = number
    return env.bins.encode(action)[0]
