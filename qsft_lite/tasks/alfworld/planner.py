"""A planner that knows the whole game: the shortest way to win, and so a proof that there is one.

Going anywhere is one step, whatever the distance. So a plan is a few visits, and the shortest one
is found by trying every thing that is wanted, every receptacle that it may be put in, and every
sink, microwave or fridge that treats it. A test compares its plans with a search of all states.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

from qsft_lite.tasks.alfworld.engine import NativeEngine
from qsft_lite.tasks.alfworld.pddl import TREATMENTS
from qsft_lite.tasks.alfworld.world import TREATED_WITH, World

Errand = tuple[str, int, int]  # "take", "move", a treatment or "use"; the object; the receptacle


def plan(world: World) -> list[str] | None:
    """The commands of the shortest way to win from the start; None where there is none."""
    start = NativeEngine(world)
    best: list[str] | None = None
    for errands in _ways(world, start):
        commands = _commands(world, start, errands)
        if best is None or len(commands) < len(best):
            best = commands
    return best


def _ways(world: World, start: NativeEngine) -> Iterator[list[Errand]]:
    """Every way to do the task, as a list of errands."""
    task_type, targets = world.game.goal.task_type, world.targets
    where = [
        (o, r)
        for r, things in enumerate(start.inside)
        for o in sorted(things & world.wanted & world.can["take"])
        if world.places[r] >= 0
    ]
    if task_type == "look_at_obj_in_light":
        for lamp in world.lamps:
            for r, things in enumerate(start.inside):
                if lamp in things and world.places[r] >= 0:
                    yield from ([("take", o, at), ("use", lamp, r)] for o, at in where)
    elif task_type in TREATMENTS:
        verb = task_type.split("_")[1]
        treating = [
            r
            for r, kinds in enumerate(world.receptacle_kinds)
            if TREATED_WITH[verb] in kinds and world.places[r] >= 0
        ]
        for o, at in where:
            for r in treating:
                for target in _takers(world, o):
                    yield [("take", o, at), (verb, o, r), ("move", o, target)]
    elif task_type == "pick_and_place_simple":
        for o, at in where:
            yield from ([("take", o, at), ("move", o, target)] for target in _takers(world, o))
    else:
        for target in targets:
            there = start.inside[target] & world.wanted
            chosen = [(o, at) for o, at in where if at != target]
            chosen = [(o, at) for o, at in chosen if target in _takers(world, o)]
            for pair in permutations(chosen, max(2 - len(there), 0)):
                yield [
                    errand for o, at in pair for errand in (("take", o, at), ("move", o, target))
                ]


def _takers(world: World, o: int) -> list[int]:
    """The goal's receptacles that an object can be put in."""
    return [r for r in world.targets if o in world.holds[r] and world.places[r] >= 0]


def _commands(world: World, start: NativeEngine, errands: list[Errand]) -> list[str]:
    """Errands as commands: with the ways between them, and what must be opened."""
    objects, receptacles = world.object_names, world.receptacle_names
    place, opened, commands = start.place, set(start.opened), []
    for verb, o, r in errands:
        name = receptacles[r]
        if world.places[r] != place:
            commands.append(f"go to {name}")
            place = world.places[r]
        if verb in ("take", "move") and r in world.openable and r not in opened:
            commands.append(f"open {name}")
            opened.add(r)
        commands.append(
            {
                "take": f"take {objects[o]} from {name}",
                "move": f"move {objects[o]} to {name}",
                "use": f"use {objects[o]}",
            }.get(verb, f"{verb} {objects[o]} with {name}")
        )
    return commands
