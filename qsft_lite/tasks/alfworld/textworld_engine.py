"""The original engine, alfworld with textworld, behind the interface of the native one.

It is an extra: pip install "qsft-lite[alfworld]", which compiles Fast Downward. It plays the game's
problem with the domain and the grammar that come with alfworld, so both engines play the same game.
"""

from __future__ import annotations

import sys
from pathlib import Path

from qsft_lite.tasks.alfworld.pddl import Game, write_problem
from qsft_lite.tasks.alfworld.text import canonical

MISSING = (
    'engine="textworld" needs the packages alfworld and textworld: '
    'pip install "qsft-lite[alfworld]" (some minutes, it compiles Fast Downward)'
)


class TextWorldEngine:
    """Plays one game after the other in textworld; see `NativeEngine` for its methods."""

    def __init__(self) -> None:
        try:
            import textworld
            from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
            from alfworld.info import ALFRED_PDDL_PATH, ALFRED_TWL2_PATH
            from textworld.envs import PddlEnv
        except ImportError as error:
            raise ImportError(MISSING) from error
        infos = textworld.EnvInfos(admissible_commands=True, won=True)
        self._domain = Path(ALFRED_PDDL_PATH).read_text(encoding="utf-8")
        self._grammar = Path(ALFRED_TWL2_PATH).read_text(encoding="utf-8")
        self._env = AlfredDemangler(PddlEnv(infos), shuffle=False)
        self._state: dict = {}

    def start(self, game: Game) -> None:
        """Begin a game."""
        arguments = list(sys.argv)
        try:
            self._env.load(
                {
                    "pddl_domain": self._domain,
                    "grammar": self._grammar.replace("UNKNOWN GOAL", game.task),
                    "pddl_problem": write_problem(game),
                }
            )
            self._state = self._env.reset()
        finally:
            sys.argv = arguments  # which Fast Downward's translator replaces

    def start_text(self) -> str:
        """What the agent reads first."""
        return self._state["feedback"]

    def step(self, command: str) -> tuple[str, bool]:
        """Do what a command says: its text, and whether the command was one of `commands`."""
        command = canonical(command)
        valid = command in self._state["admissible_commands"]
        self._state, _, _ = self._env.step(command)
        return self._state["feedback"], valid

    def won(self) -> bool:
        """Whether the goal is reached."""
        return bool(self._state["won"])

    def commands(self) -> list[str]:
        """Every command that does something here, sorted."""
        return list(self._state["admissible_commands"])
