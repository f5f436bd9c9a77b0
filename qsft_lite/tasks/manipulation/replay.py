"""An episode at the table once more, from its start and its actions: a transcript has no pictures.

A table is drawn from a seed, so a start is the arguments of the environment's reset:
{"seed": 7, "options": {"start": "prior"}}. `starts_of` has those of what `evaluate` played.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qsft_lite.evaluate import Evaluation, episode_seed
from qsft_lite.tasks.manipulation.env import Manipulation, OneTable
from qsft_lite.tasks.manipulation.picture import render
from qsft_lite.tasks.manipulation.starts import IS_OPEN
from qsft_lite.tasks.manipulation.table import LOWER_HANDLE, NOTHING, STEP, Tables
from qsft_lite.tasks.manipulation.text import COLORS

SHOWN = 288  # pixels, height and width of a picture for people
DRAWERS = ("lower", "upper")
WAYS = (("left", "right"), ("nearer", "away"), ("down", "up"))  # along x, y and z


@dataclass(frozen=True)
class Moment:
    """A state of an episode.

    Attributes:
        text: what the environment said.
        image: (H, W, 3) uint8, the picture that a policy sees; None where it sees none.
        state: (10,) float64, see `Tables.state`.
        happened: in the step before, "grasps the red block"; "" for nothing but a movement.
        instruction: what the robot is told.
        over: whether the episode ended here.
        success: whether the named block is where it should be.
        scene: a copy of the one table; of another simulator a picture of it, size x size.
        size: height and width of the picture for people.
    """

    text: str
    image: np.ndarray | None
    state: np.ndarray
    happened: str
    instruction: str
    over: bool
    success: bool
    scene: Tables | np.ndarray
    size: int

    @property
    def picture(self) -> np.ndarray:
        """(size, size, 3) uint8, for people; drawn when it is asked for, as few of them are."""
        drawn = isinstance(self.scene, np.ndarray)
        return self.scene if drawn else render(self.scene, self.size)[0]


def starts_of(
    played: Evaluation, options: Sequence[dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """The start of each episode that was played; options: the same as of `evaluate`."""
    count = len(played.transcripts)
    options = options or [None] * count
    return [
        {"seed": episode_seed(played.seed, number), "options": one}
        for number, one in zip(range(count), options, strict=True)
    ]


class Player:
    """Plays an environment step by step, and keeps every moment.

    env: it is left as it is. start: arguments of its reset. size: of the pictures for people.
    """

    def __init__(self, env: Manipulation, start: Mapping[str, Any], size: int = SHOWN):
        self.env, self.size = env.clone(), size
        text, info = self.env.reset(**start)
        self.moments: list[Moment] = []
        self._keep(text, info, "", False, _scene(self.env, size))

    def step(self, action: str) -> float:
        """Take an action and keep the moment after it; the reward."""
        before = self.moments[-1].scene
        text, reward, done, truncated, info = self.env.step(action)
        after = _scene(self.env, self.size)
        happened = "" if isinstance(after, np.ndarray) else what_happened(before, after)
        if info["success"]:
            happened = f"{happened}: success".removeprefix(": ")
        if not info["valid"]:
            happened = "is told nothing that it can read"
        self._keep(text, info, happened, done or truncated, after)
        return reward

    def _keep(
        self, text: str, info: Mapping[str, Any], happened: str, over: bool, scene: Any
    ) -> None:
        image = info["image"] if self.env.images else None
        moment = (text, image, info["state"], happened, info["instruction"], over, info["success"])
        self.moments.append(Moment(*moment, scene, self.size))


def moments_of(
    env: Manipulation, start: Mapping[str, Any], game: Mapping[str, Any], size: int = SHOWN
) -> list[Moment]:
    """Every moment of a recorded episode, one more than it has actions.

    Args:
        env: one with the same options as that which was played; it is left as it is.
        start: arguments of its reset, as of `starts_of`.
        game: a row of transcripts, with ``text`` and, if they are to be compared too, ``reward``.
        size: height and width of the pictures for people.

    Raises ValueError where texts or rewards are not those of the row: it is another episode's.
    """
    texts = list(game["text"])
    rewards = list(game.get("reward", ()))
    player = Player(env, start, size)
    for turn in range(len(texts) // 2 + 1):
        if turn:
            reward = player.step(texts[2 * turn - 1])
            if rewards and reward != rewards[2 * turn - 1]:
                raise ValueError(f"step {turn} pays {reward}: the episode is not of {start}")
        if player.moments[-1].text != texts[2 * turn]:
            raise ValueError(
                f"the episode is not of {start}: after step {turn} the environment says "
                f"{player.moments[-1].text!r:.80}, and it {texts[2 * turn]!r:.80}"
            )
    return player.moments


def pictures_of(
    env: Manipulation, start: Mapping[str, Any], game: Mapping[str, Any], size: int = SHOWN
) -> list[np.ndarray]:
    """The pictures (size, size, 3) uint8 of a recorded episode; see `moments_of`."""
    return [moment.picture for moment in moments_of(env, start, game, size)]


def what_happened(before: Tables, after: Tables) -> str:
    """What one step has changed on a table, beside the gripper's place; "" for nothing."""
    held, holds = int(before.holding[0]), int(after.holding[0])
    found = []
    if held != NOTHING and holds == NOTHING:
        found.append(f"lets go of {_name(before, held)}")
    if held == NOTHING and holds != NOTHING:
        found.append(f"grasps {_name(after, holds)}")
    if holds == NOTHING and after.shut[0] and not before.shut[0]:
        found.append("shuts on nothing")
    for drawer, name in enumerate(DRAWERS):
        was, now = before.drawers[0, drawer], after.drawers[0, drawer]
        if was < IS_OPEN <= now:
            found.append(f"the {name} drawer is open")
        if now <= 0.02 < was:
            found.append(f"the {name} drawer is shut")
    return ", ".join(found)


def in_words(action: np.ndarray) -> str:
    """What an action (8,) does: "right .07, up .04, gripper shut", in widths of the table."""
    if action[7] > 0:
        return "stop: back to the middle"
    ways = []
    for axis in np.argsort(-np.abs(action[:3]), kind="stable"):
        if (far := round(abs(STEP * action[axis]), 2)) > 0:
            ways.append(f"{WAYS[axis][int(action[axis] > 0)]} {far:.2f}".replace(" 0.", " ."))
    return ", ".join([*ways, "gripper shut" if action[6] > 0 else "gripper open"])


def _scene(env: Manipulation, size: int) -> Tables | np.ndarray:
    """A copy of the table; of another simulator a picture of it."""
    ours = isinstance(env.table, OneTable)
    return env.table.tables.take([0]) if ours else env.render(size)


def _name(tables: Tables, held: int) -> str:
    if held >= LOWER_HANDLE:
        return f"the {DRAWERS[held - LOWER_HANDLE]} handle"
    return f"the {COLORS[tables.colors[0, held]]} block"
