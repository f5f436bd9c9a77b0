"""Options of a policy, chosen on validation games from a grid that widens where its edge is best.

Every method chooses from the same grids, whatever its score: cloning from ``CLONING_GRID``, all
that has values from ``VALUE_GRID``. So no method is held back by a range that fits another one.

    choice = choose(lambda options: play(policy_of(**options)).mean, VALUE_GRID)
    policy = policy_of(**choice.options)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["CLONING_GRID", "GREEDY_BETA", "VALUE_GRID", "Choice", "as_options", "choose"]

Grid = Mapping[str, Sequence[float]]
"""The values of each axis, beta, relative_support or temperature, in increasing order."""

GREEDY_BETA = 2.0**20
"""A beta so large that the likeliest action is the one of highest score within the support."""

SUPPORTS = (0.0, 0.2, 0.5, 0.9)
VALUE_GRID: Grid = {
    "beta": (0.0, 8.0, 32.0, 128.0, 512.0, 2048.0, 8192.0, GREEDY_BETA),
    "relative_support": SUPPORTS,
}
CLONING_GRID: Grid = {
    "temperature": (0.0, 0.0625, 0.125, 0.25, 0.5, 1.0),
    "relative_support": SUPPORTS,
}

# Nothing lies beyond a natural end: beta 0 and temperature 1 are the clone as it is, GREEDY_BETA
# and temperature 0 are greedy, and a support of 1 would be greedy, too.
ENDS = {"beta": (0.0, GREEDY_BETA), "temperature": (0.0, 1.0), "relative_support": (0.0, 1.0)}
FACTORS = {"beta": 4.0, "temperature": 2.0}  # by which an axis grows; support does not
MILDER = {"beta": 1, "relative_support": 1, "temperature": -1}  # 1: less is closer to the clone


@dataclass(frozen=True)
class Choice:
    """What was chosen, and from what.

    options: the best candidate, as a policy takes them. score: its score.
    tried: one row a candidate in the order of evaluation: its options, and "mean", its score.
    message: a sentence about a chosen beta or temperature that has no tried neighbor on one side,
        though there could be; else empty.
    """

    options: dict[str, Any]
    score: float
    tried: list[dict[str, Any]]
    message: str


def choose(score: Callable[[dict[str, Any]], float], grid: Grid, *, widenings: int = 4) -> Choice:
    """The candidate of highest score; of equal ones that of the least beta, the closest to pi.

    All combinations of the grid are scored. While the best value of beta or temperature is the
    axis' first or last one, or the last before a natural end, the axis gets one more value there
    (beta four times as large or small, temperature half), and the new combinations are scored.
    Supports are a fixed list, whose first or last may well be chosen.

    Args:
        score: of a policy's options on validation games, higher is better; never of test games.
        grid: VALUE_GRID, CLONING_GRID, or another with axes of these names.
        widenings: how often the grid may grow.

    Raises:
        ValueError: an unknown axis, an axis without values, not increasing or beyond its ends,
            temperature 0 beside betas, or a score that is not finite.
    """
    axes = {name: _checked(name, values) for name, values in grid.items()}
    if "beta" in axes and 0.0 in axes.get("temperature", []):
        raise ValueError("temperature 0 is greedy cloning: a grid with betas cannot have it")
    known: dict[tuple[tuple[str, Any], ...], float] = {}  # scores by options
    for left in range(widenings, -1, -1):
        scores: dict[tuple[float, ...], float] = {}
        for place in itertools.product(*axes.values()):
            options = as_options(dict(zip(axes, place, strict=True)))
            key = tuple(options.items())  # greedy cloning has one for all supports
            if key not in known:
                known[key] = float(score(dict(options)))
                if not math.isfinite(known[key]):
                    raise ValueError(f"the score of {options} is {known[key]}, not a finite number")
            scores[place] = known[key]
        best = min(scores, key=lambda place: (-scores[place], _strength(axes, place)))
        chosen = dict(zip(axes, best, strict=True))
        wider = {name: _wider(name, axes[name], value) for name, value in chosen.items()}
        if not left or not any(wider.values()):
            break
        axes = {name: sorted([*values, *wider[name]]) for name, values in axes.items()}
    message = " ".join(
        f"{name} {chosen[name]:g} is at the edge of what was tried, {values[0]:g} to "
        f"{values[-1]:g}, after {widenings} widenings: the best one may lie beyond."
        for name, values in axes.items()
        if name in FACTORS and chosen[name] in {values[0], values[-1]} - {*ENDS[name]}
    )
    tried = [{**dict(key), "mean": mean} for key, mean in known.items()]
    return Choice(as_options(chosen), scores[best], tried, message)


def as_options(candidate: Mapping[str, float]) -> dict[str, Any]:
    """A candidate as a policy takes it: ``greedy`` at the greedy end of beta or temperature."""
    if candidate.get("temperature") == 0.0:  # of cloning: the likeliest action is in every support
        return {"greedy": True}
    options: dict[str, Any] = dict(candidate)
    if candidate.get("beta") == GREEDY_BETA:
        options["greedy"] = True
    return options


def _checked(name: str, values: Sequence[float]) -> list[float]:
    """The values of an axis as floats."""
    if name not in ENDS:
        raise ValueError(f"a grid knows no axis {name!r}; it knows {', '.join(ENDS)}")
    values, (low, high) = [float(value) for value in values], ENDS[name]
    if not values or values != sorted(set(values)) or not low <= values[0] <= values[-1] <= high:
        raise ValueError(
            f"the values of {name} must be increasing and from {low:g} to {high:g}, not {values}"
        )
    return values


def _strength(axes: Grid, place: tuple[float, ...]) -> tuple[float, ...]:
    """Grows with how far a candidate is from the clone, beta before all else."""
    pairs = sorted(zip(axes, place, strict=True))
    return tuple(MILDER[name] * value for name, value in pairs)


def _wider(name: str, values: list[float], best: float) -> list[float]:
    """The next values of an axis where the best is at, or beside, one of its ends; none inside."""
    inner = [value for value in values if value not in ENDS[name]]
    if name not in FACTORS or not inner:
        return []
    low, high = ENDS[name]
    below, above = inner[0] / FACTORS[name], inner[-1] * FACTORS[name]
    found = [below] if best <= inner[0] and below > low else []
    return [*found, above] if best >= inner[-1] and above < high else found
