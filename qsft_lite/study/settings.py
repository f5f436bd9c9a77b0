"""Settings of a study: one frozen dataclass a task, and one table of profiles of each."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any, TypeVar

__all__ = ["Settings", "changed"]


Own = TypeVar("Own", bound="Settings")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What every task's study is set by. A task's own class adds to it, and changes defaults.

    The network, if it is made from scratch: layers, width (of the hidden states), heads.
    The data: games of stage one; value_games, fresh ones of what goes on from the clone, or 0 for
    the same games again.
    Training: batch_rows (rows of a step, over all processes), row_tokens (of a packed row), epochs,
    learning rates and steps of warm-up of stage one and of what goes on from it; muon, ours, for
    networks from scratch: Muon with weight decay and a cosine schedule, without it AdamW as
    transformers has it; target_rate, of the moving average; bf16, mixed precision where the device
    gains by it; compile_layers, see trainer.compiling; checkpoint_steps between checkpoints;
    threads of the CPU, 1 where tensors are tiny, 0 for as many as there are, up to 4.
    Play: how many seeds, and games of validation and of the test. even_starts: every start equally
    often, in turn; otherwise starts are drawn. coarse_grid: choose from a third of the options.
    """

    layers: int = 2
    width: int = 64
    heads: int = 4
    games: int = 20_000
    value_games: int = 0
    batch_rows: int = 32
    row_tokens: int = 64
    behavior_epochs: float = 1.0
    value_epochs: float = 1.0
    learning_rate: float = 3e-3
    value_learning_rate: float = 3e-3
    warmup_steps: int = 50
    value_warmup_steps: int = 50
    muon: bool = True
    target_rate: float = 0.02
    bf16: bool = False
    compile_layers: bool = False
    checkpoint_steps: int = 1_000
    threads: int = 0
    seeds: int = 3
    validation_games: int = 500
    test_games: int = 1_000
    even_starts: bool = True
    coarse_grid: bool = False

    def with_few(self: Own, games: int) -> Own:
        """The same with few games, for an estimate."""
        fewer = {name: min(getattr(self, name), games) for name in ("games", "value_games")}
        return dataclasses.replace(self, **fewer)


def changed(settings: Own, changes: dict[str, Any] | Iterable[str]) -> Own:
    """The settings with some of them changed: by name, or from texts "name=value".

    Raises:
        ValueError: an unknown name, with the nearest one, or a value of another type.
    """
    if not isinstance(changes, dict):
        changes = dict(_pair(text) for text in changes)
    known = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    found = {}
    for name, value in changes.items():
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
            raise ValueError(f"no setting is called {name!r}: did you mean {nearest!r}?")
        found[name] = _as_type(name, value, type(known[name]))
    return dataclasses.replace(settings, **found)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is no setting: write name=value")
    return name.strip(), value.strip()


def _as_type(name: str, value: Any, kind: type) -> Any:
    """A value of a setting's type; of a text what it says."""
    said = {"true": True, "1": True, "false": False, "0": False}
    if kind is bool and str(value).lower() in said:
        return said[str(value).lower()]
    if kind is tuple and isinstance(value, str):
        return tuple(value.split())
    if kind in (list, tuple) and isinstance(value, (list, tuple)):
        return kind(value)
    try:
        if kind is int and float(value) != int(float(value)):
            raise ValueError
        if kind in (int, float, str) and not isinstance(value, (bool, list, tuple)):
            return kind(float(value)) if kind is int else kind(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"{name} must be of type {kind.__name__}, like its default, not {value!r}")
