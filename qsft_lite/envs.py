"""The tasks, by name: environments to play in and trajectories to learn from, all offline.

Every environment follows Gymnasium's API and is text in, text out. A transcript is the text of
reset, then action, observation, action, observation, ...: exactly what the trajectories hold.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import gymnasium
from datasets import Dataset

from qsft_lite.data.recording import check_choice
from qsft_lite.tasks.chess.data import generate_chess
from qsft_lite.tasks.chess.env import ChessGame, Endgames
from qsft_lite.tasks.endgames.data import generate_endgames
from qsft_lite.tasks.gridworld.env import Gridworld, generate_gridworld
from qsft_lite.tasks.twenty_questions.data import generate_twenty_questions
from qsft_lite.tasks.twenty_questions.env import TwentyQuestions
from qsft_lite.tasks.wordle.data import generate_wordle
from qsft_lite.tasks.wordle.env import Wordle

ENVIRONMENTS: dict[str, Callable[..., gymnasium.Env]] = {
    "chess": ChessGame,
    "endgames": Endgames,
    "gridworld": Gridworld,
    "twenty_questions": TwentyQuestions,
    "wordle": Wordle,
}
GENERATORS: dict[str, Callable[..., Dataset]] = {
    "chess": generate_chess,
    "endgames": generate_endgames,
    "gridworld": generate_gridworld,
    "twenty_questions": generate_twenty_questions,
    "wordle": generate_wordle,
}


def make(name: str, **options: Any) -> gymnasium.Env:
    """The environment of a task; its class (see ENVIRONMENTS) documents the options.

    Raises ValueError for an unknown name or option, with the closest known one.
    """
    check_choice(name, ENVIRONMENTS, "environment")
    _check_options(ENVIRONMENTS[name], options)
    return ENVIRONMENTS[name](**options)


def generate(name: str, n: int, seed: int, **options: Any) -> Dataset:
    """n trajectories of a task's behavior policy; the generator (see GENERATORS) has the options.

    All take processes (the result is the same for any number) and path, a folder to write JSON
    lines to, where a run that was killed resumes.

    Returns columns text list[str], is_action list[bool], reward list[float] (in the task's own
    units, one a text, 0 for observations) and done bool (False when the episode was cut off).
    Raises ValueError for an unknown name or option, with the closest known one.
    """
    check_choice(name, GENERATORS, "environment")
    _check_options(GENERATORS[name], options)
    return GENERATORS[name](n, seed, **options)


def _check_options(function: Callable[..., Any], options: dict[str, Any]) -> None:
    known = [name for name in inspect.signature(function).parameters if name not in ("n", "seed")]
    for option in options:
        check_choice(option, known, "option")
