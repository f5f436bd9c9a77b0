"""What every task checks of its arguments, in the same words."""

from __future__ import annotations

from collections.abc import Mapping
from reprlib import repr as brief
from typing import Any

from qsft_lite.checks import check_choice

__all__ = ["check_action", "check_choice", "reset_option"]


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
