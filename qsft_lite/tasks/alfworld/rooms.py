"""The tables behind the generator: real rooms, real tasks, and what goes where.

They are small extracts of ALFWorld's files (github.com/alfworld/alfworld, MIT), which stem from
ALFRED and AI2-THOR:

- rooms.txt: the 120 rooms. Of each its receptacles, a location for each of a type (those of one
  number stand at one place), and the types of its objects.
- tasks.txt: 2,420 training tasks. Of each (task, object, receptacle or lamp) how often it is set in
  which room.
- holds.txt: what each type of receptacle takes. abilities.txt: what can be cleaned, heated, ...
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources

from qsft_lite.tasks.alfworld.pddl import Goal

OPENABLE = frozenset({"fridge", "cabinet", "microwave", "drawer", "safe"})
CONTAINERS = frozenset({"bowl", "box", "cup", "mug", "plate", "pan", "pot"})
LAMP = "desklamp"
LAMP_STANDS_ON = ("desk", "dresser", "sidetable", "shelf", "diningtable", "coffeetable")
# How much more a receptacle draws things than a cabinet does. The genuine scene in ALFWorld's
# repository has 21 of its 42 things on two countertops, and 8 in eight cabinets.
ROOMINESS = {
    "countertop": 6, "diningtable": 6, "desk": 4, "coffeetable": 3, "sidetable": 3, "dresser": 3,
    "bed": 3, "sofa": 2, "armchair": 2, "fridge": 2, "sinkbasin": 2, "garbagecan": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Room:
    """A room: its number in AI2-THOR, (type, location) of each receptacle, types of objects."""

    number: int
    receptacles: tuple[tuple[str, int], ...]
    objects: tuple[str, ...]

    @property
    def types(self) -> frozenset[str]:
        """The types of its receptacles."""
        return frozenset(kind for kind, _ in self.receptacles)


def _rows(table: str) -> list[list[str]]:
    """The lines of a table, cut into their parts."""
    path = resources.files("qsft_lite.tasks.alfworld") / "tables" / f"{table}.txt"
    lines = path.read_text(encoding="utf-8").splitlines()
    return [[part.strip() for part in line.split("|")] for line in lines]


@cache
def rooms() -> dict[int, Room]:
    """Every room, by its number: kitchens to 30, living rooms from 201, bedrooms 301, baths 401."""
    found = {}
    for number, receptacles, objects in _rows("rooms"):
        stands = []
        for group in receptacles.split(", "):
            kind, *locations = group.split()
            stands += [(kind, int(location)) for location in locations]
        found[int(number)] = Room(int(number), tuple(stands), tuple(objects.split()))
    return found


@cache
def tasks() -> dict[tuple[Goal, int], int]:
    """How often each (goal, number of the room) is set in ALFWorld's training tasks."""
    found = {}
    for goal, counts in _rows("tasks"):
        for room, count in (pair.split(":") for pair in counts.split()):
            found[Goal(*goal.split()), int(room)] = int(count)
    return found


@cache
def holds() -> dict[str, frozenset[str]]:
    """Of each type of receptacle the types of objects that it takes."""
    return {place: frozenset(things.split()) for place, things in _rows("holds")}


@cache
def abilities() -> dict[str, frozenset[str]]:
    """Which types of objects are cleanable, heatable, coolable, sliceable and toggleable."""
    return {ability: frozenset(things.split()) for ability, things in _rows("abilities")}


@cache
def unseen_rooms() -> tuple[int, ...]:
    """The rooms without a training task."""
    used = {room for _, room in tasks()}
    return tuple(number for number in rooms() if number not in used)


@cache
def object_types() -> tuple[str, ...]:
    """The types of all objects that rooms have or receptacles take, sorted."""
    return tuple(sorted({LAMP}.union(*holds().values(), *(r.objects for r in rooms().values()))))
