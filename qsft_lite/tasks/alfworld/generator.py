"""Games of our own: the real rooms and tasks, with things put where they may be.

ALFWorld's game files are a download of their own, so a game here is drawn: its task and room from
the joint distribution of the training tasks, how many there are of each object (one to three, as
often as in the genuine scene), and where each lies, among the receptacles that take it. The thing
wanted never starts where it is wanted. Every game is solvable that way, and a test plays the
planner through all of them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache

from qsft_lite.tasks.alfworld.pddl import Fact, Game, Goal, task_texts
from qsft_lite.tasks.alfworld.rooms import (
    CONTAINERS,
    LAMP,
    LAMP_STANDS_ON,
    OPENABLE,
    ROOMINESS,
    Room,
    abilities,
    holds,
    object_types,
    rooms,
    tasks,
    unseen_rooms,
)

# As many games as ALFWorld has in each; validation, which it lacks, is of the training rooms.
SPLITS = {"train": 3_553, "validation": 140, "seen": 140, "unseen": 134}
COUNTS, COUNT_WEIGHTS = (1, 2, 3), (9, 5, 7)  # how many of a kind, in 21 kinds of the genuine scene
AGENT = "agent1"

Placed = list[tuple[str, int]]  # of each object its type, and the number of its receptacle


# By the hundreds of its number in AI2-THOR.
ROOMS = {0: "kitchen", 2: "living room", 3: "bedroom", 4: "bathroom"}


def draw_game(split: str, number: int) -> Game:
    """Game number of a split, always the same one."""
    rng, goal, room, placed = _draw(split, number)
    return Game(
        name=f"{split}/{number}",
        task=rng.choice(task_texts(goal)),
        goal=goal,
        agent=AGENT,
        **_problem(room, placed),
    )


@cache
def room_of(split: str, number: int) -> str:
    """What kind of room a game is in, one of ROOMS."""
    return ROOMS[_draw(split, number)[2].number // 100]


def _draw(split: str, number: int) -> tuple[random.Random, Goal, Room, Placed]:
    """A game's task, room and things, and the generator for what else it draws."""
    rng = random.Random(f"alfworld {split} {number}")
    while True:
        goal, room = _draw_task(split, rng)
        placed = _place(goal, room, rng)
        if placed is not None:
            return rng, goal, room, placed


@cache
def _task_rows() -> tuple[list[tuple[Goal, int]], list[int]]:
    return list(tasks()), list(tasks().values())


def _draw_task(split: str, rng: random.Random) -> tuple[Goal, Room]:
    """A task as often as it is set; of the unseen rooms one of the same kind as the task's."""
    rows, weights = _task_rows()
    [(goal, number)] = rng.choices(rows, weights)
    if split == "unseen":
        number = rng.choice([one for one in unseen_rooms() if one // 100 == number // 100])
    return goal, rooms()[number]


def _place(goal: Goal, room: Room, rng: random.Random) -> Placed | None:
    """Where everything lies; None where the task cannot be set in the room."""
    lit = goal.task_type == "look_at_obj_in_light"
    needs = {goal.target} if not lit else set()
    for verb, place in (("clean", "sinkbasin"), ("heat", "microwave"), ("cool", "fridge")):
        if goal.task_type.startswith(f"pick_{verb}"):
            needs.add(place)
    if not needs <= room.types or (lit and LAMP not in room.objects):
        return None
    placed = []
    for kind in sorted({*room.objects, goal.object}):
        [count] = rng.choices(COUNTS, COUNT_WEIGHTS)
        if kind == LAMP:
            count = 1
        elif kind == goal.object and goal.task_type == "pick_two_obj_and_place":
            count = max(2, count)
        avoided = goal.target if kind == goal.object and not lit else ""
        numbers, weights = _receptacles_for(kind, room, avoided)
        if not numbers:
            if kind in (goal.object, LAMP):
                return None
            continue
        placed += [(kind, number) for number in rng.choices(numbers, weights, k=count)]
    rng.shuffle(placed)  # so that the numbers of like things say nothing of where they lie
    return placed


@cache
def _receptacles_for(kind: str, room: Room, avoided: str) -> tuple[list[int], list[int]]:
    """The numbers of the receptacles that may hold a type of object, and their weights."""
    found = [
        (number, ROOMINESS.get(place, 1))
        for number, (place, _) in enumerate(room.receptacles)
        if place != avoided
        and (place in LAMP_STANDS_ON if kind == LAMP else kind in holds().get(place, ()))
    ]
    return [number for number, _ in found], [weight for _, weight in found]


def _problem(room: Room, placed: Placed) -> dict:
    """The kinds and facts of a game."""
    room_kinds, room_facts = _room_problem(room)
    kinds, facts = dict(room_kinds), set(room_facts)
    for number, (kind, where) in enumerate(placed):
        one = f"{kind}_bar_{number:03d}"
        kinds[one] = "object"
        facts.update((fact[0], one, *fact[1:]) for fact in _abilities(kind))
        facts.add(("inreceptacle", one, _receptacle_id(room, where)))
        facts.add(("objectatlocation", one, _location(room.receptacles[where][1])))
    return {"kinds": kinds, "facts": frozenset(facts)}


@cache
def _room_problem(room: Room) -> tuple[dict[str, str], frozenset[Fact]]:
    """What all games in a room have in common."""
    kinds = {AGENT: "agent", "loc_bar_start": "location"}
    kinds.update((f"{kind}type", "otype") for kind in object_types())
    kinds.update((f"{kind}type", "rtype") for kind in holds())
    facts = {("atlocation", AGENT, "loc_bar_start")}
    for number, (kind, location) in enumerate(room.receptacles):
        one, place = _receptacle_id(room, number), _location(location)
        kinds.update({one: "receptacle", place: "location"})
        facts.update(_receptacle_facts(one, kind, place))
    return kinds, frozenset(facts)


def _receptacle_facts(one: str, kind: str, place: str) -> Iterator[Fact]:
    yield ("receptacletype", one, f"{kind}type")
    yield ("receptacleatlocation", one, place)
    if kind in OPENABLE:
        yield ("openable", one)
    for thing in holds().get(kind, ()):
        yield ("cancontain", f"{kind}type", f"{thing}type")


@cache
def _abilities(kind: str) -> tuple[tuple[str, ...], ...]:
    """What is true of every object of a type, without its name."""
    facts = [("objecttype", f"{kind}type")]
    if kind != LAMP:
        facts.append(("pickupable",))
    if kind in CONTAINERS:
        facts.append(("isreceptacleobject",))
    return (*facts, *((ability,) for ability, things in abilities().items() if kind in things))


def _receptacle_id(room: Room, number: int) -> str:
    """Receptacles of a type are numbered backwards, as in the original: the last id is number 1."""
    kind = room.receptacles[number][0]
    if kind.endswith("basin"):
        return f"{kind.removesuffix('basin')}_bar_{number:03d}_bar_{kind}"
    return f"{kind}_bar_{number:03d}"


def _location(number: int) -> str:
    return f"loc_bar_{number:03d}"
