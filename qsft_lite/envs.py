"""The tasks, by name: environments to play in and trajectories to learn from, all offline.

Every environment follows Gymnasium's API and is text in, text out. A transcript is the text of
reset, then action, observation, action, observation, ...: exactly what the trajectories hold.

A task is imported when it is first asked for, so asking for Wordle needs no package for chess.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from qsft_lite.tasks.checks import check_choice

if TYPE_CHECKING:
    import gymnasium
    from datasets import Dataset

# Of each task its package, with the modules env and data, and its environment's class in env.
# In data the task has its generator, `generate_<task>`.
TASKS: dict[str, tuple[str, str]] = {
    "alfworld": ("qsft_lite.tasks.alfworld", "ALFWorld"),
    "chess": ("qsft_lite.tasks.chess", "ChessGame"),
    "endgames": ("qsft_lite.tasks.endgames", "Endgames"),
    "gridworld": ("qsft_lite.tasks.gridworld", "Gridworld"),
    "manipulation": ("qsft_lite.tasks.manipulation", "Manipulation"),
    "twenty_questions": ("qsft_lite.tasks.twenty_questions", "TwentyQuestions"),
    "webshop": ("qsft_lite.tasks.webshop", "WebShop"),
    "wordle": ("qsft_lite.tasks.wordle", "Wordle"),
}


def make(name: str, **options: Any) -> gymnasium.Env:
    """The environment of a task; its class (see TASKS) documents the options.

    Raises ValueError for an unknown name or option, with the closest known one.
    """
    check_choice(name, TASKS, "environment")
    package, environment = TASKS[name]
    return _call(getattr(import_module(f"{package}.env"), environment), options)


def generate(name: str, n: int, seed: int, **options: Any) -> Dataset:
    """n trajectories of a task's behavior policy; `generate_<task>` in its data.py has the options.

    All take processes (the result is the same for any number), path, a folder to write JSON lines
    to, where a run that was killed resumes, and shard, (i, k) for the i-th of k parts of the same
    trajectories, see ``data.recording.record``.

    Returns columns text list[str], is_action list[bool], reward list[float] (in the task's own
    units, one a text, 0 for observations) and done bool (False when the episode was cut off).
    Raises ValueError for an unknown name or option, with the closest known one.
    """
    check_choice(name, TASKS, "environment")
    package, _ = TASKS[name]
    return _call(getattr(import_module(f"{package}.data"), f"generate_{name}"), options, n, seed)


def _call(maker: Callable[..., Any], options: dict[str, Any], *arguments: int) -> Any:
    """maker(*arguments, **options); ValueError for an option that it does not take."""
    known = _options(maker)[len(arguments) :]
    for option in options:
        check_choice(option, known, "option")
    return maker(*arguments, **options)


def _options(maker: Callable[..., Any]) -> list[str]:
    """Names of what a function or a class takes; **options are those of the class's base."""
    parameters = inspect.signature(maker).parameters
    names = [name for name, one in parameters.items() if one.kind is not one.VAR_KEYWORD]
    return names if len(names) == len(parameters) else names + _options(maker.__base__)
