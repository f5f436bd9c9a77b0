"""What is checked in many places, in the same words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def check_choice(value: str, choices: Iterable[str], name: str) -> None:
    """ValueError, with the closest choice, when value is none of the choices."""
    choices = sorted(choices)
    if value in choices:
        return
    close = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    raise ValueError(f"unknown {name} {value!r}{hint} There are: {', '.join(choices)}")
