"""What every task checks of its arguments, in the same words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from reprlib import repr as brief
from typing import Any

import numpy as np

from qsft_lite.checks import check_choice

__all__ = ["check_action", "check_choice", "check_weights", "reset_option"]


def check_action(action: Any) -> None:
    """TypeError for an action that is no text."""
    if not isinstance(action, str):
        raise TypeError(f"an action is a text, got {brief(action)}")


def reset_option(options: Any, name: str) -> Any:
    """The value of the one option that reset takes; None where it is not given.

    Raises TypeError for options that are no dict, and ValueError for another option.
    """
    if options is None:
        return None
    if not isinstance(options, Mapping):
        raise TypeError(f"options must be a dict such as {{{name!r}: ...}}, got {brief(options)}")
    unknown = [option for option in options if option != name]
    if unknown:
        raise ValueError(f"unknown reset options {brief(unknown)}: the only one is {name!r}")
    return options.get(name)


def check_weights(
    weights: Mapping[Any, float], name: str, known: Iterable[str] | None = None
) -> dict[Any, float]:
    """The probability of each part; ValueError for weights below 0 or all 0, and an unknown part.

    name: of the option, in messages.
    """
    if known is not None:
        for part in weights:
            check_choice(part, known, f"part of {name}")
    values = np.array(list(weights.values()), dtype=float)
    if not ((values >= 0).all() and 0 < values.sum() < np.inf):
        raise ValueError(f"{name} needs weights of at least 0, and one above, got {dict(weights)}")
    return dict(zip(weights, (values / values.sum()).tolist(), strict=True))
