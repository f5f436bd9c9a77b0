"""The native engine: ALFWorld's rules and texts in plain Python, some thousand times as fast.

It is held against the original, alfworld 0.4.2, step by step and text by text, with its surprises:
only what is held can be examined, a closed drawer does not keep a knife from slicing, looking
around a second time in the middle of the room shows nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from qsft_lite.tasks.alfworld.pddl import TREATMENTS
from qsft_lite.tasks.alfworld.text import HELP, NOTHING_HAPPENS, listed, read_command
from qsft_lite.tasks.alfworld.world import TREATED_WITH, World

WELCOME = "-= Welcome to TextWorld, ALFRED! =-"
MIDDLE = "You are in the middle of a room. Looking quickly around you, you see"


class NativeEngine:
    """One play of a world: its state, the commands that can be given, and their texts.

    The state is that of the PDDL domain: a thing can be in two receptacles at once, if the file
    says so, and stays in the other one when it is taken from the first.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.place = world.start
        self.held: int | None = None
        objects = world.object_ids
        self.inside: list[set[int]] = [set() for _ in world.receptacle_names]
        for o, r in world.pairs("inreceptacle", objects, world.receptacle_ids):
            self.inside[r].add(o)
        self.left: set[tuple[int, int]] = set()  # (o, r): o was taken from r, and is not there
        self.lies: dict[int, set[int]] = defaultdict(set)  # locations of an object
        for o, location in world.pairs("objectatlocation", objects):
            if location in world.locations:
                self.lies[o].add(world.locations[location])
        for agent, o in world.pairs("holds", None, objects):
            if agent == world.game.agent:
                self.held = o
        self.opened = set(world.opened)
        self.marks: dict[str, set[int]] = {
            mark: world.numbers(mark, objects)
            for mark in ("isclean", "ishot", "iscool", "issliced", "istoggled")
        }

    def start_text(self) -> str:
        """What the agent reads first."""
        names = self.world.receptacle_names
        standing = self.world.standing[self.place]
        look = (
            self._facing()
            if standing
            else (f"{MIDDLE} {listed([f'a {names[r]}' for r in self.world.everywhere])}.")
        )
        return f"{WELCOME}\n\n{look}\n\nYour task is to: {self.world.game.task}."

    def step(self, command: str) -> tuple[str, bool]:
        """Do what a command says: its text, and whether the command was one of `commands`."""
        verb, first, second = read_command(command)
        action = ACTIONS.get(verb)
        text = action(self, first, second) if action else None
        return (NOTHING_HAPPENS, False) if text is None else (text, True)

    # Each action returns its text, or None where it cannot be done.

    def _look(self, first: str, second: str) -> str | None:
        if self.world.standing[self.place]:
            return self._facing()
        return f"{MIDDLE} nothing."

    def _facing(self) -> str:
        world, place = self.world, self.place
        standing = world.standing[place]
        beside = []
        if self.left:
            beside = [
                f"a {world.object_names[o]}"
                for o in sorted(o for o, at in self.lies.items() if place in at)
                for r in standing
                if (o, r) in self.left
            ]
        names = listed([world.receptacle_names[r] for r in standing])
        return f"You are facing the {names}. Next to it, you see {listed(beside)}."

    def _inventory(self, first: str, second: str) -> str | None:
        if self.held is None:
            return "You are not carrying anything."
        return f"You are carrying: a {self.world.object_names[self.held]}."

    def _help(self, first: str, second: str) -> str | None:
        return HELP

    def _go(self, first: str, second: str) -> str | None:
        r = self.world.receptacle_of.get(first)
        if r is None or self.world.places[r] in (-1, self.place):
            return None
        self.place = self.world.places[r]
        return f"You arrive at {first}. {self._seen(r)}"

    def _seen(self, r: int) -> str:
        """What an examined receptacle shows."""
        world = self.world
        name = world.receptacle_names[r]
        if not self._is_open(r):
            return f"The {name} is closed."
        things = listed([f"a {world.object_names[o]}" for o in sorted(self.inside[r])])
        if r in world.openable:
            return f"The {name} is open. In it, you see {things}."
        return f"On the {name}, you see {things}."

    def _is_open(self, r: int) -> bool:
        return r in self.opened or r not in self.world.openable

    def _here(self, name: str) -> int | None:
        """The receptacle of that name, if the agent stands before it."""
        r = self.world.receptacle_of.get(name)
        return r if r is not None and self.world.places[r] == self.place else None

    def _open(self, first: str, second: str) -> str | None:
        r = self._here(first)
        if r is None or r not in self.world.openable or r in self.opened:
            return None
        self.opened.add(r)
        return f"You open the {first}. {self._seen(r)}"

    def _close(self, first: str, second: str) -> str | None:
        r = self._here(first)
        if r is None or r not in self.world.openable or r not in self.opened:
            return None
        self.opened.discard(r)
        return f"You close the {first}."

    def _take(self, first: str, second: str) -> str | None:
        r, o = self._here(second), self.world.object_of.get(first)
        if r is None or self.held is not None or not self._is_open(r):
            return None
        if o not in self.inside[r] or o not in self.world.can["take"]:
            return None
        self.inside[r].discard(o)
        self.left.add((o, r))
        self.lies[o].discard(self.place)
        self.held = o
        return f"You pick up the {first} from the {second}."

    def _move(self, first: str, second: str) -> str | None:
        r, o = self._here(second), self._in_hand(first)
        if r is None or o is None or not self._is_open(r) or o not in self.world.holds[r]:
            return None
        self.inside[r].add(o)
        self.left.discard((o, r))
        self.lies[o].add(self.place)
        self.held = None
        return f"You move the {first} to the {second}."

    def _in_hand(self, name: str) -> int | None:
        """The object of that name, if it is held."""
        o = self.world.object_of.get(name)
        return o if o is not None and o == self.held else None

    def _treats(self, verb: str, first: str, second: str) -> int | None:
        """The held object, if it can be cleaned, heated or cooled here; None otherwise."""
        r, o = self._here(second), self._in_hand(first)
        if r is None or TREATED_WITH[verb] not in self.world.receptacle_kinds[r]:
            return None
        return o if o in self.world.can[verb] else None

    def _clean(self, first: str, second: str) -> str | None:
        o = self._treats("clean", first, second)
        if o is None:
            return None
        self.marks["isclean"].add(o)
        return f"You clean the {first} using the {second}."

    def _heat(self, first: str, second: str) -> str | None:
        o = self._treats("heat", first, second)
        if o is None:
            return None
        self.marks["ishot"].add(o)
        self.marks["iscool"].discard(o)
        return f"You heat the {first} using the {second}."

    def _cool(self, first: str, second: str) -> str | None:
        o = self._treats("cool", first, second)
        if o is None:
            return None
        self.marks["iscool"].add(o)
        self.marks["ishot"].discard(o)
        return f"You cool the {first} using the {second}."

    def _use(self, first: str, second: str) -> str | None:
        o = self.world.object_of.get(first)
        if o not in self.world.can["use"] or not self._stands_here(o):
            return None
        self.marks["istoggled"].add(o)
        return f"You turn on the {first}."

    def _stands_here(self, o: int) -> bool:
        return any(o in self.inside[r] for r in self.world.standing[self.place])

    def _slice(self, first: str, second: str) -> str | None:
        o, knife = self.world.object_of.get(first), self._in_hand(second)
        if o not in self.world.can["slice"] or knife not in self.world.knives:
            return None
        if self.place not in self.lies[o]:
            return None
        self.marks["issliced"].add(o)
        return f"You sliced the {first} with the {second}."

    def _examine(self, first: str, second: str) -> str | None:
        r, o = self._here(first), self._in_hand(first)
        if r is not None:
            return self._seen(r)
        return None if o is None else self._described(o, first)

    def _described(self, o: int, name: str) -> str:
        """What an examined object is like, in the original's order of precedence."""
        world, marks = self.world, self.marks
        if o in world.is_container:
            inner = listed([f"a {world.object_names[i]}" for i in sorted(world.insides[o])])
            return f"This is a normal {name}. In it, you see {inner}."
        clean, hot, cool, cut = (
            o in marks[mark] for mark in ("isclean", "ishot", "iscool", "issliced")
        )
        warmth = "hot" if hot else "cool" if cool else ""
        if warmth and clean:
            return f"This is a {warmth} and clean {'sliced ' * cut}{name}."
        if cut and (clean or warmth):
            return f"This is a {'clean' if clean else warmth} sliced {name}."
        if hot or clean or cool:
            return f"This is a {'hot' if hot else 'clean' if clean else 'cold'} {name}."
        if o in world.can["use"] and o in marks["istoggled"]:
            return f"This {name} is on."
        if o in world.can["slice"] and cut:
            return f"This is a sliced {name}."
        return f"There's nothing special about {name}."

    def won(self) -> bool:
        """Whether the goal is reached."""
        world = self.world
        task_type = world.game.goal.task_type
        if task_type == "look_at_obj_in_light":
            lit = world.lamps & self.marks["istoggled"]
            return self.held in world.wanted and any(self._stands_here(lamp) for lamp in lit)
        wanted = world.wanted
        if task_type in TREATMENTS:
            wanted = wanted & self.marks[TREATMENTS[task_type][1]]
        needed = 2 if task_type == "pick_two_obj_and_place" else 1
        return bool(wanted) and any(len(wanted & self.inside[r]) >= needed for r in world.targets)

    def commands(self) -> list[str]:
        """Every command that does something here, sorted, as the original lists them."""
        world, place, held = self.world, self.place, self.held
        objects, receptacles = world.object_names, world.receptacle_names
        commands = list(world.moves[place])
        add = commands.append
        for r in world.standing[place]:
            name = receptacles[r]
            add(f"examine {name}")
            is_open = self._is_open(r)
            if r in world.openable:
                add(f"close {name}" if is_open else f"open {name}")
            for o in self.inside[r]:
                if o in world.can["use"]:
                    add(f"use {objects[o]}")
                if is_open and held is None and o in world.can["take"]:
                    add(f"take {objects[o]} from {name}")
            if held is None:
                continue
            if is_open and held in world.holds[r]:
                add(f"move {objects[held]} to {name}")
            for verb, kind in TREATED_WITH.items():
                if kind in world.receptacle_kinds[r] and held in world.can[verb]:
                    add(f"{verb} {objects[held]} with {name}")
        if held is not None:
            add(f"examine {objects[held]}")
            if held in world.knives:
                for o in world.can["slice"]:
                    if place in self.lies[o]:
                        add(f"slice {objects[o]} with {objects[held]}")
        return sorted(set(commands))


Action = Callable[[NativeEngine, str, str], "str | None"]
ACTIONS: dict[str, Action] = {
    "look": NativeEngine._look,
    "inventory": NativeEngine._inventory,
    "help": NativeEngine._help,
    "go": NativeEngine._go,
    "open": NativeEngine._open,
    "close": NativeEngine._close,
    "take": NativeEngine._take,
    "move": NativeEngine._move,
    "clean": NativeEngine._clean,
    "heat": NativeEngine._heat,
    "cool": NativeEngine._cool,
    "use": NativeEngine._use,
    "slice": NativeEngine._slice,
    "examine": NativeEngine._examine,
}
