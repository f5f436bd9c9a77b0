"""What tables of another simulator have in common: each is stepped by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np


class SimulatorTable:
    """One table of another simulator, as `env.Manipulation` plays it.

    A subclass has horizon (steps of an episode), clone, reset, step, success, instruction, text,
    state, image and instruction_words.
    """

    simulator: ClassVar[str]

    def check_start(self, start: str) -> None:
        """ValueError for the start "task"."""
        if start != "prior":
            raise ValueError(f"{self.simulator}'s tasks have the start 'prior' only, not {start!r}")

    @staticmethod
    def step_all(tables: Sequence[Any], actions: np.ndarray) -> None:
        """One step of each; actions: (tables, 8)."""
        for table, action in zip(tables, actions, strict=True):
            table.step(action)

    @staticmethod
    def see_all(
        tables: Sequence[Any], format: str, size: int | None
    ) -> list[tuple[str, dict[str, Any]]]:
        """See env.OneTable."""
        found = []
        for table in tables:
            info = {name: getattr(table, name)() for name in ("success", "instruction", "state")}
            if size is not None:
                info["image"] = table.image(size)
            found.append((table.text(format), info))
        return found
