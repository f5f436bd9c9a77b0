"""The shipped tables again, from where they come: ALFWorld's own files (MIT).

Layouts (the openable receptacles of each room and where they stand) and task names lie in
../shared/data; which kinds of objects a room has, and what goes where, in the alfworld package.
"""

import json
import re
from collections import Counter, defaultdict
from pathlib import Path

from places import ROOT

SHARED = ROOT.parent / "shared" / "data" / "alfworld"
SCENE = SHARED / "scene"
MOVABLE = {"Bowl", "Box", "Cup", "Mug", "Plate", "Pan", "Pot"}
# Receptacles that stand in a room but are missing in its layout: so many of them.
MISSING = {"StoveBurner": 4}


def read_holds(constants) -> dict[str, list[str]]:
    """Of each type of receptacle the types of objects that it takes."""
    return {
        place.lower(): sorted(one.lower() for one in things if "Sliced" not in one)
        for place, things in sorted(constants.VAL_RECEPTACLE_OBJECTS.items())
        if place not in MOVABLE and place != "PaintingHanger"
    }


def read_rooms(objects_folder: Path, holds: dict[str, list[str]]) -> dict[int, tuple[dict, list]]:
    """Of each room the locations of its receptacles, by type, and the types of its objects."""
    takeable = {thing for things in holds.values() for thing in things} | {"desklamp"}
    rooms = {}
    for path in (SHARED / "layouts").glob("*-openable.json"):
        number = int(re.search(r"FloorPlan(\d+)-", path.name)[1])
        kinds = json.loads((objects_folder / f"FloorPlan{number}-objects.json").read_text())
        places = {pddl_id(one): tuple(at) for one, at in json.loads(path.read_text()).items()}
        seen: dict[tuple, int] = {}
        receptacles = defaultdict(list)
        for one in sorted(places):
            kind = one.partition("_bar_")[0] + ("basin" if "basin" in one else "")
            receptacles[kind].append(seen.setdefault(places[one], len(seen)))
        beside = len(seen)
        for kind in sorted(kinds):
            if kind.lower() in holds and kind.lower() not in receptacles:
                for _ in range(MISSING.get(kind, 1)):
                    receptacles[kind.lower()].append(beside)
                    beside += 1
        objects = sorted({kind.lower() for kind in kinds} & takeable)
        rooms[number] = (dict(sorted(receptacles.items())), objects)
    return dict(sorted(rooms.items()))


def pddl_id(name: str) -> str:
    """ "Cabinet|+00.68|-00.50" as PDDL files write it, in lower case."""
    for sign, word in (("|", "_bar_"), ("+", "_plus_"), ("-", "_minus_"), (".", "_dot_")):
        name = name.replace(sign, word)
    return name.lower()


def read_tasks() -> dict[tuple[str, str, str], Counter]:
    """Of each task (type, object, receptacle or lamp) how often each room has it."""
    tasks = defaultdict(Counter)
    for row in json.loads((SHARED / "tasks_train.json").read_text()):
        task_type, thing, _, place, room = row["task_type"].split("-")
        tasks[task_type, thing.lower(), place.lower()][int(room)] += 1
    return tasks


def tables(constants, objects_folder: Path) -> dict[str, str]:
    """The text of each file in the folder tables."""
    holds = read_holds(constants)
    rooms = read_rooms(objects_folder, holds)
    room_lines = [
        f"{number} | "
        + ", ".join(f"{kind} {' '.join(map(str, at))}" for kind, at in receptacles.items())
        + f" | {' '.join(objects)}"
        for number, (receptacles, objects) in rooms.items()
    ]
    task_lines = [
        f"{' '.join(task)} | {' '.join(f'{room}:{count}' for room, count in sorted(rooms.items()))}"
        for task, rooms in sorted(read_tasks().items())
    ]
    hold_lines = [f"{place} | {' '.join(things)}" for place, things in holds.items()]
    able = [
        f"{name.lower()} | {' '.join(sorted(one.lower() for one in kinds if 'Sliced' not in one))}"
        for name, kinds in sorted(constants.VAL_ACTION_OBJECTS.items())
    ]
    lines = {"rooms": room_lines, "tasks": task_lines, "holds": hold_lines, "abilities": able}
    return {name: "\n".join(rows) + "\n" for name, rows in lines.items()}
