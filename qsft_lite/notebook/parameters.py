"""Parameters of a notebook: their defaults, strict checks, and the words of a command line."""

from __future__ import annotations

import ast
import difflib
import os
import warnings
from typing import Any

import nbformat
import numpy as np

WRITABLE = "None, bool, int, float, str, list, and dict with str keys"


class ParameterError(ValueError):
    """A parameter that the notebook does not have, or a value of another type."""


def default_parameters(notebook: nbformat.NotebookNode) -> dict[str, Any]:
    """Names and values of the cell tagged ``parameters``; empty where there is no such cell.

    Raises:
        ParameterError: more than one such cell, or a line that is not ``NAME = literal``. (A value
            computed there would go stale when another value is injected below it.)
    """
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) > 1:
        raise ParameterError(f"{len(cells)} cells are tagged parameters; one is needed")
    try:
        statements = ast.parse(cells[0].source).body if cells else []
    except SyntaxError as error:
        raise ParameterError(f"parameters cell: {error}") from error
    defaults = {}
    for statement in statements:
        try:
            (target,) = statement.targets
            defaults[target.id] = ast.literal_eval(statement.value)
        except (AttributeError, ValueError) as error:  # another kind of statement, target or value
            text = ast.unparse(statement)
            raise ParameterError(f"parameters cell: {text!r} is not NAME = literal") from error
    return defaults


def check_parameters(parameters: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The parameters as they can be written into a notebook, each of the type of its default.

    An int may stand for a float, and anything for None. Tuples become lists, numpy's scalars
    Python's, and a path becomes a str where the default is one.

    Raises:
        ParameterError: a name not in ``defaults``, a value of another type, or one that holds
            something that cannot be written: the error names the parameter and the place in it.
    """
    checked = {}
    for name, value in parameters.items():
        if name not in defaults:
            nearest = difflib.get_close_matches(str(name), defaults, n=1, cutoff=0)
            hint = f"did you mean {nearest[0]!r}? " if nearest else ""
            raise ParameterError(f"unknown parameter {name!r}: {hint}Known: {list(defaults)}")
        wanted = type(defaults[name])
        if wanted is str and isinstance(value, os.PathLike):
            value = os.fspath(value)
        value = _plain(value, name, "")
        given = type(value)
        allowed = {float: (float, int), tuple: (list,), type(None): (given,)}.get(wanted, (wanted,))
        if given not in allowed:
            raise ParameterError(
                f"parameter {name!r} is a {wanted.__name__} (default {defaults[name]!r}), "
                f"not a {given.__name__}: {value!r:.80}"
            )
        checked[name] = value
    return checked


def _plain(value: Any, name: str, place: str) -> Any:
    """``value`` in the types of WRITABLE; ``place`` is where it is in the parameter."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (list, tuple)):
        return [_plain(part, name, f"{place}[{i}]") for i, part in enumerate(value)]
    what = f"parameter {name!r} " + (f"has at {name}{place}" if place else "is")
    if isinstance(value, dict):
        if bad := [key for key in value if type(key) is not str]:
            raise ParameterError(f"{what} a dict with the key {bad[0]!r:.80}, which is not a str")
        return {key: _plain(part, name, f"{place}[{key!r}]") for key, part in value.items()}
    if type(value) not in (type(None), bool, int, float, str):
        kind = type(value).__name__
        raise ParameterError(f"{what} a {kind}, {value!r:.80}: a notebook can take {WRITABLE}")
    if place and isinstance(value, float) and not np.isfinite(value):
        raise ParameterError(f"{what} {value}, which no literal inside a list or dict can give")
    if isinstance(value, str) and not _is_text(value):
        raise ParameterError(f"{what} {value!r:.80}, which is no valid text (not UTF-8?)")
    return value


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # a word of the command line, or a file name, in another encoding
        return False
    return True


# Words of a command line


def from_word(word: str, default: Any) -> Any:
    r"""The value that a word stands for: a Python literal, or inf, -inf or nan, or else a str.

    Where the default is a str, the word is one as it stands, unless it is a quoted Python string:
    ``"\n"``, with its quotes, is a newline.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in what is no Python at all
            value = ast.literal_eval(word)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = float(word) if word.lstrip("+-") in ("inf", "nan") else word
    return word if isinstance(default, str) and not isinstance(value, str) else value


def to_word(value: Any, default: Any) -> str:
    """The word that ``from_word`` reads as this value."""
    if isinstance(value, str) and from_word(value, default) == value:
        return value
    return repr(value)
