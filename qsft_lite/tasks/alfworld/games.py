"""Where games come from: our splits by number, and the original's folders of trials."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from reprlib import repr as brief

from qsft_lite.checks import check_choice
from qsft_lite.tasks.alfworld.generator import ROOMS, SPLITS, draw_game, room_of
from qsft_lite.tasks.alfworld.pddl import TASK_TYPES, Game, read_problem, task_texts
from qsft_lite.tasks.alfworld.world import World

PROBLEM, ENGINE_GAME, TRAJECTORY = "initial_state.pddl", "game.tw-pddl", "traj_data.json"
UNSUPPORTED = ("movable", "Sliced")  # in a trial's path: tasks that ALFWorld leaves out


class Split:
    """Games of ours: "train", "validation" and "seen" (of the same rooms), "unseen" (of others).

    rooms: "all", or one kind of them, see ROOMS.
    """

    def __init__(self, split: str, rooms: str = "all") -> None:
        check_choice(split, SPLITS, "split")
        check_choice(rooms, ("all", *ROOMS.values()), "rooms")
        self.names = [
            f"{split}/{number}"
            for number in range(SPLITS[split])
            if rooms in ("all", room_of(split, number))
        ]

    def world(self, name: str) -> World:
        """The world of a game of any split, or of a trial on disk."""
        return world_of(name)


class Trials:
    """The original's games in a folder, at any depth, as in its json_2.1.1 and its splits.

    A trial is a folder with initial_state.pddl or game.tw-pddl, and traj_data.json beside it.
    Names are paths from the folder. Tasks with movable receptacles or slices are left out, as in
    ALFWorld. Raises FileNotFoundError where the folder holds no trial.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"games={str(folder)!r} is no folder")
        found = {
            path.parent
            for file in (PROBLEM, ENGINE_GAME)
            for path in self.folder.rglob(file)
            if not any(word in str(path.relative_to(self.folder)) for word in UNSUPPORTED)
        }
        if not found:
            raise FileNotFoundError(
                f"{self.folder} holds no game: a trial has {PROBLEM} or {ENGINE_GAME}. ALFWorld's "
                "games are downloaded by alfworld-download, into json_2.1.1"
            )
        self.names = sorted(str(path.relative_to(self.folder)) for path in found)

    def world(self, name: str) -> World:
        """The world of a trial of the folder, or of any game."""
        return world_of(str(self.folder / name) if name in self.names else name)


@lru_cache(maxsize=256)
def world_of(name: str) -> World:
    """The world of a game: "train/0" and its like, or the path of a trial or of one of its files.

    Raises ValueError, saying what is wrong, for a name that is no game and a file that is none.
    """
    match = re.fullmatch(rf"({'|'.join(SPLITS)})/(\d{{1,9}})", name)
    if match:
        split, number = match[1], int(match[2])
        if number >= SPLITS[split]:
            raise ValueError(
                f"there is no game {name!r}: {split} has {SPLITS[split]} games, from 0"
            )
        return World(draw_game(split, number))
    return World(read_game(name))


def read_game(path: str | Path) -> Game:
    """The game of a trial's folder, or of its .pddl or .tw-pddl file.

    What the agent is asked to do is read from the engine's file, where there is one; otherwise it
    is the first of the original's phrases for the goal. Raises ValueError for a path without a game
    and for files that cannot be read, naming file and line.
    """
    path = Path(path)
    problem, beside = _files_of(path)
    data = _read_json(beside) if beside.suffix == ".tw-pddl" and beside.is_file() else {}
    text = _read_text(problem) if problem.suffix != ".tw-pddl" else data.get("pddl_problem")
    if not isinstance(text, str):
        raise ValueError(f"{problem} has no text pddl_problem: it is no game of ALFWorld's engine")
    game = read_problem(text, str(problem))
    _check_trajectory(game, problem.parent / TRAJECTORY)
    asked = re.search(r"Your task is to: ([^\"\n\\]+?)\.?\"", str(data.get("grammar", "")))
    task = asked[1] if asked and asked[1] != "UNKNOWN GOAL" else task_texts(game.goal)[0]
    return Game(str(path), task, game.goal, game.agent, game.kinds, game.facts)


def _files_of(path: Path) -> tuple[Path, Path]:
    """The file with a game's problem, and the engine's file, which need not be there."""
    try:
        if path.is_file():
            return path, path
        files = [path / file for file in (PROBLEM, ENGINE_GAME) if (path / file).is_file()]
        is_folder = path.is_dir()
    except (OSError, ValueError):  # a name that no file can have
        files, is_folder = [], False
    if files:
        return files[0], path / ENGINE_GAME
    if is_folder:
        raise ValueError(f"{path} holds no game: it has neither {PROBLEM} nor {ENGINE_GAME}")
    raise ValueError(
        f"there is no game {brief(str(path))}: neither one of ours, such as 'train/0', nor a "
        "folder or file of the original's"
    )


def _check_trajectory(game: Game, path: Path) -> None:
    """ValueError where traj_data.json tells of another task than the problem's goal."""
    if not path.is_file():
        return
    task_type = _read_json(path).get("task_type")
    if task_type != game.goal.task_type:
        raise ValueError(
            f"{path}: task_type is {str(task_type)[:100]!r}, but the goal of the problem beside it "
            f"is {game.goal.task_type!r}; known are {', '.join(TASK_TYPES)}"
        )


def _read_json(path: Path) -> dict:
    text = _read_text(path)
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} must hold one JSON object, not a {type(data).__name__}")
    return data


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{path} cannot be read as text: {error}") from error
