r"""A robot at a table, text in and text out, with a picture of each state.

The contract is COG's (Singh et al., 2020): a picture of 48 x 48, a state of 10 numbers, an action
of 8, a reward of 1 on success and else 0. The simulator is ours (see table.py), Meta-World's or
COG's own.
"""

from __future__ import annotations

import copy
import string
from collections.abc import Sequence
from reprlib import repr as brief
from typing import Any, ClassVar, Literal

import gymnasium
import numpy as np
from gymnasium.spaces import Text

from qsft_lite.tasks.checks import check_action, check_choice, reset_option
from qsft_lite.tasks.manipulation.bins import ActionBins
from qsft_lite.tasks.manipulation.picture import SIZE, check_size, render
from qsft_lite.tasks.manipulation.starts import HORIZONS, STARTS, is_success, start_tables
from qsft_lite.tasks.manipulation.table import Tables
from qsft_lite.tasks.manipulation.text import (
    IMAGE,
    image_texts,
    instruction_words,
    instructions,
    state_texts,
    state_words,
)

FORMATS = ("image", "state")
SIMULATORS = ("numpy", "metaworld", "roboverse")


class Manipulation(gymnasium.Env):
    r"""One table at a time.

    task: "tray" (put a block on the tray; 60 steps), "drawer" (open the drawer and take a block
    out; 80), "shut_drawer" (the upper drawer is open and must be shut before; 80); with
    simulator="metaworld" (an extra) one of `metaworld.METAWORLD_TASKS`; with "roboverse" (your own
    checkout) the same three in COG's simulator. start: where an episode
    starts unless reset says so, "prior" (the whole task) or "task" (half way), see starts.py.
    format: "image", a state is the gripper's own, the instruction and a picture, "X12 Y07 Z19 A+1
    B-2 C+0 open put the red block on the tray <image>\n"; "state", the words say what a picture
    would show (see text.py), for networks that read only. images: whether info has
    pictures; as the format needs when None. bins: how actions are written; `ActionBins.uniform()`
    when None. size: of a picture. max_steps: an episode's most steps; the task's own when None.

    reset takes options {"start": "prior" or "task"}. step takes a text such as
    "x12 y03 z07 a08 b08 c08 g1 s0\n", whatever white space is around its words; one that cannot be
    read moves nothing and takes a step. The reward is 1 when the named block is where it should be,
    which ends the episode, else 0. info has "success", "valid" (the action could be read),
    "instruction", "state" (10,) float64 (see `Tables.state`) and, with images, "image"
    (size, size, 3) uint8.
    """

    metadata: ClassVar = {"render_modes": ["rgb_array"]}
    images = True  # a policy is given pictures, one for each <image>; not in the format "state"
    action_space = Text(max_length=200, charset=string.printable)
    observation_space = Text(max_length=1_000, charset=string.printable)

    def __init__(
        self,
        task: str = "tray",
        *,
        start: Literal["prior", "task"] = "prior",
        format: Literal["image", "state"] = "image",
        images: bool | None = None,
        bins: ActionBins | None = None,
        size: int = SIZE,
        max_steps: int | None = None,
        simulator: Literal["numpy", "metaworld", "roboverse"] = "numpy",
    ) -> None:
        check_choice(simulator, SIMULATORS, "simulator")
        check_choice(format, FORMATS, "format")
        check_choice(start, STARTS, "start")
        check_size(size)
        if images is False and format == "image":
            raise ValueError("the format 'image' needs pictures: images=False needs format='state'")
        if bins is not None and not isinstance(bins, ActionBins):
            raise TypeError(f"bins must be ActionBins, got {brief(bins)}")
        if max_steps is not None and max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, got {max_steps}")
        if simulator == "metaworld":
            from qsft_lite.tasks.manipulation.metaworld import MetaWorldTable

            self.table: OneTable | MetaWorldTable | RoboverseTable = MetaWorldTable(task)
        elif simulator == "roboverse":
            from qsft_lite.tasks.manipulation.roboverse import RoboverseTable

            self.table = RoboverseTable(task)
        else:
            check_choice(task, HORIZONS, "task")
            self.table = OneTable(task)
        self.task, self.start, self.format, self.simulator = task, start, format, simulator
        self.images = format == "image"
        self.bins = bins or ActionBins.uniform()
        self.size, self.max_steps = size, max_steps or self.table.horizon
        self._pictures = self.images if images is None else images
        self._under_way, self._steps = False, 0

    @property
    def texts(self) -> tuple[str, ...]:
        """Texts with every word of a transcript, as a tokenizer of words needs them."""
        told = instruction_words() if self.simulator == "numpy" else self.table.instruction_words()
        if self.format == "image":
            told = tuple(text.removesuffix("\n") + f" {IMAGE}\n" for text in told)
        return *state_words(self.format), *told, *self.bins.words

    def clone(self) -> Manipulation:
        """Another environment with the same options."""
        other = copy.copy(self)
        other.table, other._np_random, other._under_way = self.table.clone(), None, False
        return other

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start an episode; TypeError or ValueError for a start that is none."""
        start = reset_option(options, "start")
        if start is not None and not isinstance(start, str):
            raise TypeError(f"start must be a text, got {brief(start)}")
        if start not in (None, *STARTS):
            raise ValueError(f"unknown start {brief(start)}. There are: {', '.join(STARTS)}")
        self.table.check_start(start or self.start)
        super().reset(seed=seed)
        self.table.reset(start or self.start, self.np_random)
        self._under_way, self._steps = True, 0
        [(text, info)] = self.table.see_all([self.table], self.format, self._shown_size())
        return text, {**info, "valid": True}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Act; ResetNeeded when no episode is under way, TypeError for what is no text."""
        [found] = self.step_together([self], [action])
        return found

    @staticmethod
    def step_together(envs: Sequence[Manipulation], actions: Sequence[str]) -> list[tuple]:
        """What `step` of each environment gives; tables of one kind are stepped at once."""
        if len({env._kind() for env in envs}) > 1:
            return [env.step(action) for env, action in zip(envs, actions, strict=True)]
        for env, action in zip(envs, actions, strict=True):
            if not env._under_way:
                raise gymnasium.error.ResetNeeded("the episode is over or not started: call reset")
            check_action(action)
        chosen = [env.bins.read(action) for env, action in zip(envs, actions, strict=True)]
        able = [place for place, bins in enumerate(chosen) if bins is not None]
        tables = [env.table for env in envs]
        if able:
            moves = [envs[place].bins.decode(chosen[place][None])[0] for place in able]
            tables[0].step_all([tables[place] for place in able], np.stack(moves))
        seen = tables[0].see_all(tables, envs[0].format, envs[0]._shown_size())
        return [env._answer(*each) for env, *each in zip(envs, seen, chosen, strict=True)]

    def _kind(self) -> tuple[Any, ...]:
        """What environments have in common that can be stepped at once."""
        return type(self.table), self.task, self.format, self._shown_size()

    def _shown_size(self) -> int | None:
        """Of the picture in info; None for none."""
        return self.size if self._pictures else None

    def _answer(
        self, seen: tuple[str, dict[str, Any]], bins: np.ndarray | None
    ) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """What `step` gives; seen: of `see_all`, afterwards; bins: None for no action."""
        self._steps += 1
        text, info = seen
        success = info["success"]
        truncated = not success and self._steps >= self.max_steps
        self._under_way = not (success or truncated)
        info["valid"] = bins is not None
        return text, float(success), success, truncated, info

    def render(self, size: int = 192) -> np.ndarray:
        """(size, size, 3) uint8, a picture for people."""
        return self.table.image(size)


class OneTable:
    """One table of ours, as the environment plays it."""

    def __init__(self, task: str):
        self.task, self.horizon = task, HORIZONS[task].whole
        self.tables: Tables = start_tables(task, "prior", 1, np.random.default_rng(0))

    def clone(self) -> OneTable:
        """Another table of the same task."""
        other = copy.copy(self)
        other.tables = self.tables.take([0])
        return other

    def check_start(self, start: str) -> None:
        """Every start is one of ours."""

    def reset(self, start: str, rng: np.random.Generator) -> None:
        """Set the table."""
        self.tables = start_tables(self.task, start, 1, rng)

    @staticmethod
    def step_all(tables: Sequence[OneTable], actions: np.ndarray) -> None:
        """One step of each; actions: (tables, 8)."""
        joined = Tables.joined([table.tables for table in tables])
        joined.step(actions)
        for place, table in enumerate(tables):
            table.tables = joined.take([place])

    @staticmethod
    def see_all(
        tables: Sequence[OneTable], format: str, size: int | None
    ) -> list[tuple[str, dict[str, Any]]]:
        """Of each table of one task its state as text, and what info says of it.

        size: of the picture in info; None for none.
        """
        task, joined = tables[0].task, Tables.joined([table.tables for table in tables])
        infos: dict[str, Sequence[Any]] = {
            "success": is_success(task, joined).tolist(),
            "instruction": instructions(task, joined),
            "state": joined.state(),
        }
        if size is not None:
            infos["image"] = render(joined, size)
        write = image_texts if format == "image" else state_texts
        told = [dict(zip(infos, each, strict=True)) for each in zip(*infos.values(), strict=True)]
        return list(zip(write(task, joined), told, strict=True))

    def image(self, size: int) -> np.ndarray:
        """(size, size, 3) uint8."""
        return render(self.tables, size)[0]
