r"""ALFWorld as text: an agent in a household finds, treats and moves things.

A game scores 1 when the task is done and 0 otherwise. Texts, commands and rules are those of
alfworld 0.4.2 (Shridhar et al., 2021), each text with a newline at its end.
"""

from __future__ import annotations

import copy
import string
from pathlib import Path
from typing import Any, Literal

import gymnasium
from gymnasium.spaces import Text

from qsft_lite.tasks.alfworld.engine import NativeEngine
from qsft_lite.tasks.alfworld.games import Split, Trials
from qsft_lite.tasks.alfworld.short import long_command, short_command, short_text
from qsft_lite.tasks.alfworld.textworld_engine import TextWorldEngine
from qsft_lite.tasks.alfworld.vocabulary import short_words, text_words
from qsft_lite.tasks.alfworld.world import World
from qsft_lite.tasks.checks import check_action, check_choice, reset_option

MAX_STEPS = 50
ENGINES = ("native", "textworld")
FORMATS = ("text", "short")


class ALFWorld(gymnasium.Env):
    r"""One game at a time: text in, text out.

    split, rooms: which games of ours are drawn (see `Split`). games: a folder
    with the original's games, which are drawn instead (see `Trials`). engine: "native" is ours,
    "textworld" the original (an extra), with the same texts and a few steps a second. format:
    "text" is the original's words, "short" ours (see short.py).

    reset draws a game evenly; options {"game": ...} names one: "unseen/3", or the path of a trial.
    Its info has the game, the task, its task_type and the admissible_commands. step takes a
    command, whatever white space is around it; the older "put X in/on Y" is "move X to Y". The
    reward is 1 when the task is done, which ends the game, otherwise 0; after max_steps steps it is
    truncated. Its info has "success", "valid" (the command did something) and what reset's has.
    """

    metadata = {"render_modes": []}
    action_space = Text(max_length=200, charset=string.printable)
    observation_space = Text(max_length=10_000, charset=string.printable)

    def __init__(
        self,
        *,
        split: Literal["train", "validation", "seen", "unseen"] = "train",
        rooms: str = "all",
        games: str | Path | None = None,
        engine: Literal["native", "textworld"] = "native",
        format: Literal["text", "short"] = "text",
        max_steps: int = MAX_STEPS,
    ) -> None:
        check_choice(engine, ENGINES, "engine")
        check_choice(format, FORMATS, "format")
        if max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, got {max_steps}")
        self.source = Split(split, rooms) if games is None else Trials(games)
        self.engine, self.format, self.max_steps = engine, format, max_steps
        self._textworld = TextWorldEngine() if engine == "textworld" else None
        self.play: NativeEngine | TextWorldEngine | None = None
        self.world: World | None = None
        self._steps = 0

    @property
    def texts(self) -> tuple[str, ...]:
        """Texts with every word of a transcript, as a tokenizer of words needs them."""
        return text_words() if self.format == "text" else short_words()

    def clone(self) -> ALFWorld:
        """Another environment with the same options and games."""
        other = copy.copy(self)
        other.play = other._np_random = None
        other._textworld = TextWorldEngine() if self.engine == "textworld" else None
        return other

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start a game; ValueError for a game that there is not, TypeError for what is no name."""
        name = reset_option(options, "game")
        if name is not None and not isinstance(name, str | Path):
            raise TypeError(f"a game is a name or a path, got {type(name).__name__}")
        world = None if name is None else self.source.world(str(name))
        super().reset(seed=seed)
        if world is None:
            world = self.source.world(self.source.names[self.np_random.integers(len(self))])
        self.world, self._steps = world, 0
        if self._textworld is None:
            self.play = NativeEngine(world)
        else:
            self._textworld.start(world.game)
            self.play = self._textworld
        if self.format == "short":
            return f"{world.short_start()}\n", self._info()
        return f"{self.play.start_text()}\n", self._info()

    def __len__(self) -> int:
        """Number of games that reset draws from."""
        return len(self.source.names)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Act; ResetNeeded when no game is under way, TypeError for what is no text."""
        play = self.play
        if play is None:
            raise gymnasium.error.ResetNeeded("the game is over or not started: call reset first")
        check_action(action)
        command = long_command(action) if self.format == "short" else action
        text, valid = play.step(command)
        self._steps += 1
        success = play.won()
        truncated = not success and self._steps >= self.max_steps
        info = {**self._info(), "success": success, "valid": valid}
        if success or truncated:
            self.play = None
        text = short_text(text) if self.format == "short" else text
        return f"{text}\n", float(success), success, truncated, info

    def _info(self) -> dict[str, Any]:
        game, commands = self.world.game, self.play.commands()
        if self.format == "short":
            commands = [short_command(command) for command in commands]
        return {
            "game": game.name,
            "task": game.task,
            "task_type": game.goal.task_type,
            "admissible_commands": commands,
        }
