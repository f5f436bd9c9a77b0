"""The rows of a study's table: methods, their options, and the scores that they act by."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from qsft_lite.baselines import METHODS
from qsft_lite.baselines.choosing import CLONING_GRID, GREEDY_BETA, VALUE_GRID, Grid

__all__ = ["ABLATION", "ALONG", "CLONING", "ROWS", "Row"]


FEW_TEMPERATURES: Grid = {"temperature": (0.5, 1.0), "relative_support": (0.5,)}
FEW_BETAS: Grid = {"beta": (0.0, 32.0, GREEDY_BETA), "relative_support": (0.5,)}


@dataclasses.dataclass(frozen=True)
class Row:
    """A row.

    key: its name on the command line, and its folder's. method, options: what trains it. scores:
    which ones its policy may act by, each of them a line of the table; "" where there is no choice.
    """

    key: str
    title: str
    method: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    scores: tuple[str, ...] = ("",)

    def grid(self, profile: str) -> Grid:
        """The grid that its policy's options are chosen from, whatever its score."""
        cloning = METHODS[self.method].family == "cloning"
        if profile == "smoke":  # a few, for a smoke run has little else to do than to play them
            return FEW_TEMPERATURES if cloning else FEW_BETAS
        return CLONING_GRID if cloning else VALUE_GRID


def _of_method(key: str) -> Row:
    return Row(key, METHODS[key].title, key)


# At its best temperature: what every other row is compared with, and begins with.
CLONING = Row("bc", "Sharpened cloning", "bc")
ALONG = {"train_behavior": True}  # pi goes on with the games that p learns from
_OURS = {"backup": "behavior", **ALONG}
ROWS = {
    row.key: row
    for row in (
        _of_method("filtered_bc"),
        _of_method("return_conditioned"),
        _of_method("ilql"),
        _of_method("cql"),
        Row("q_sft_paper", "Q-SFT (paper)", "q_sft_paper", {}, ("p",)),
        Row("q_sft", "Q-SFT (ours)", "q_sft", _OURS, ("p", "ratio")),
        # Half of the steps on returns, then the backup: p begins as pi, which is too high a value.
        Row(
            "q_sft_returns_first",
            "Q-SFT (ours), returns first",
            "q_sft",
            {**_OURS, "returns_first": 0.5},
            ("ratio",),
        ),
        Row("mc_returns", "Monte-Carlo returns", "mc_returns", ALONG, ("ratio",)),
        Row("random_targets", "Random targets", "random_targets", ALONG, ("ratio",)),
        # The last control, for those who name it: is it the reuse of the logits that helps?
        Row("q_sft_new_head", "Q-SFT, new head", "q_sft_new_head", _OURS, ("ratio",)),
    )
}
"""The rows that every task has."""

ABLATION = {
    row.key: row
    for row in (
        Row(
            f"{leftover}_{backup}_{'along' if along else 'frozen'}",
            f"{leftover}, {backup}, pi {'trained along' if along else 'frozen'}",
            "q_sft",
            {"leftover": leftover, "backup": backup, "train_behavior": along, **options},
            ("p", "ratio"),
        )
        for leftover, backup, along, options in (
            ("uniform", "max", False, {}),
            ("uniform", "support", True, {"support": 0.01}),
            ("dummy", "max", True, {}),
            ("dummy", "support", True, {"support": 0.01}),
            ("dummy", "policy", True, {"support": 0.01, "beta": 32.0}),
            ("dummy", "behavior", False, {}),
            ("dummy", "behavior", True, {}),
            ("dummy", "returns", True, {}),
        )
    )
}
"""The parts of Q-SFT one by one, for any task: ``--study ablation``."""
