"""What every task checks of its arguments, in the same words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from reprlib import repr as brief
from typing import Any


def check_choice(value: str, choices: Iterable[str], name: str) -> None:
    """ValueError, with the closest choice, when value is none of the choices."""
    choices = sorted(choices)
    if value in choices:
        return
    close = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"unknown {name} {value!r}{hint} There are: {', '.join(choices)}")


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
