"""The rows of a study's table: methods, their options, and the scores that they act by."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from qsft_lite.baselines import METHODS
from qsft_lite.baselines.choosing import CLONING_GRID, GREEDY_BETA, VALUE_GRID, Grid

__all__ = ["ABLATION", "CLONING", "Q_TRANSFORMER", "ROWS", "Row"]


FEW_TEMPERATURES: Grid = {"temperature": (0.5, 1.0), "relative_support": (0.5,)}
# A third of the usual grids, for tasks where a game takes many steps.
COARSE_TEMPERATURES: Grid = {"temperature": (0.0, 0.25, 0.5, 1.0), "relative_support": (0.2, 0.5)}
COARSE_BETAS: Grid = {
    "beta": (0.0, 8.0, 32.0, 128.0, 512.0, GREEDY_BETA),
    "relative_support": (0.2, 0.5),
}
FEW_BETAS: Grid = {"beta": (0.0, 32.0, GREEDY_BETA), "relative_support": (0.5,)}


@dataclasses.dataclass(frozen=True)
class Row:
    """A row.

    key: its name on the command line, and its folder's. method, options: what trains it. scores:
    which ones its policy may act by, each of them a line of the table; "" where there is no choice.
    teacher: the row whose policy, as it was chosen, it learns from.
    """

    key: str
    title: str
    method: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    scores: tuple[str, ...] = ("",)
    teacher: str | None = None

    def grid(self, profile: str, coarse: bool = False) -> Grid:
        """The grid that its policy's options are chosen from, whatever its score."""
        cloning = not METHODS[self.method].has_values
        if profile == "smoke":  # a few, for a smoke run has little else to do than to play them
            return FEW_TEMPERATURES if cloning else FEW_BETAS
        if coarse:
            return COARSE_TEMPERATURES if cloning else COARSE_BETAS
        return CLONING_GRID if cloning else VALUE_GRID


def _of_method(key: str) -> Row:
    return Row(key, METHODS[key].title, key)


# At its best temperature: what every other row is compared with, and begins with. All act with its
# pi but the one whose loss trains pi along.
CLONING = Row("bc", "Sharpened cloning", "bc")
ROWS = {
    row.key: row
    for row in (
        _of_method("filtered_bc"),
        _of_method("return_conditioned"),
        _of_method("ilql"),
        _of_method("cql"),
        Row("q_sft_paper", "Q-SFT (paper)", "q_sft_paper", {}, ("p",)),
        _of_method("q_sft"),
        Row(
            "q_sft_distilled",
            METHODS["q_sft_distilled"].title,
            "q_sft_distilled",
            teacher="q_sft",
        ),
        Row("q_sft_dummy", METHODS["q_sft_dummy"].title, "q_sft_dummy", {}, ("p", "ratio")),
        _of_method("mc_returns"),
        _of_method("random_targets"),
        # The last control, for those who name it: is it the reuse of the logits that helps?
        _of_method("q_sft_new_head"),
    )
}
"""The rows that every task has."""

Q_TRANSFORMER = _of_method("q_transformer")
"""For tasks whose actions have dimensions: one lists it in ROWS of its own, beside these."""


def _part(key: str, title: str, score: str = "paired", **options: Any) -> Row:
    return Row(key, title, "q_sft", options, (score,))


_TRUSTED = {"support": 0.01}
_ONE_DUMMY = {"leftover": "dummy", "backup": "behavior", "returns_first": 0.5}
ABLATION = {
    row.key: row
    for row in (
        Row("ilql", "ILQL", "ilql"),
        _part(
            "uniform_max", "Eq. 3, max", "p", leftover="uniform", backup="max", returns_first=0.0
        ),
        _part("dummy_frozen", "one dummy, pi frozen", "ratio", **_ONE_DUMMY),
        _part(
            "dummy_along", "one dummy, pi trained along", "ratio", **_ONE_DUMMY, train_behavior=True
        ),
        _part("paired_returns", "paired, returns", backup="returns", returns_first=0.0),
        _part("paired_behavior", "paired, value of the behavior"),
        _part("paired_at_once", "paired, no returns first", returns_first=0.0),
        _part("paired_prior", "paired, prior from returns", prior="returns"),
        _part("paired_recorded", "paired, recorded next action", backup="recorded"),
        _part("paired_support", "paired, largest of the support", backup="support", **_TRUSTED),
        _part("paired_policy", "paired, policy", backup="policy", beta=32.0, **_TRUSTED),
        _part("head_returns", "head, returns", values="head", backup="returns", returns_first=0.0),
        _part("head_behavior", "head, value of the behavior", values="head"),
    )
}
"""The parts of Q-SFT one by one, for any task, beside ILQL: ``--study ablation``."""
