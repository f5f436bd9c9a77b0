"""A game made ready for play: who is who, what stands where, and what can be done with it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from qsft_lite.tasks.alfworld.pddl import TREATMENTS, Game
from qsft_lite.tasks.alfworld.short import short_start

# Of each treatment the type of receptacle that it needs.
TREATED_WITH = {"clean": "sinkbasin", "heat": "microwave", "cool": "fridge"}
KNIVES = {"knife", "butterknife"}


class World:
    """What does not change in a game: who is who, what stands where, and what can be done.

    Receptacles and objects are numbers, in the order in which texts list them. Of a receptacle its
    names, kinds (its types), places and holds (objects it takes) have the same index, of an object
    its names, kinds and insides (what stands in it).
    """

    def __init__(self, game: Game) -> None:
        facts: dict[str, list[tuple[str, ...]]] = defaultdict(list)
        for predicate, *arguments in sorted(game.facts):
            facts[predicate].append(tuple(arguments))
        self.game, self.facts = game, facts
        used = {one for fact in game.facts for one in fact[1:]}
        names = entity_names(used)
        for one in used - set(names):
            if game.kinds.get(one) in ("object", "receptacle"):
                raise ValueError(f"{game.name}: {one} has no name: ids are like mug_bar_1")
        ids = {
            kind: [one for one in names if game.kinds.get(one) == kind]
            for kind in ("receptacle", "object")
        }
        self.receptacle_ids = {one: number for number, one in enumerate(ids["receptacle"])}
        self.object_ids = {one: number for number, one in enumerate(ids["object"])}
        self.receptacle_names = [names[one] for one in ids["receptacle"]]
        self.object_names = [names[one] for one in ids["object"]]
        self.receptacle_of = {name: r for r, name in enumerate(self.receptacle_names)}
        self.object_of = {name: o for o, name in enumerate(self.object_names)}
        self.receptacle_kinds = self._kinds("receptacletype", self.receptacle_ids)
        self.object_kinds = self._kinds("objecttype", self.object_ids)
        self._place_receptacles()
        self._read_abilities()
        self._read_goal()
        self._write_commands()

    def _kinds(self, predicate: str, ids: dict[str, int]) -> list[set[str]]:
        kinds: list[set[str]] = [set() for _ in ids]
        for number, kind in self.pairs(predicate, ids):
            kinds[number].add(kind.removesuffix("type"))
        return kinds

    def pairs(
        self, predicate: str, first: dict | None = None, second: dict | None = None
    ) -> list[tuple]:
        """The facts of a predicate of two, its names replaced by what first and second have.

        Raises ValueError for a fact of another number of names, or of names of another type.
        """
        found = []
        for fact in self.facts[predicate]:
            try:
                one, other = fact
                one = one if first is None else first[one]
                found.append((one, other if second is None else second[other]))
            except (ValueError, KeyError):
                raise ValueError(
                    f"{self.game.name}: ({predicate} {' '.join(fact)}) does not have the names it "
                    "needs: one of them is of another type, or missing"
                ) from None
        return found

    def numbers(self, predicate: str, ids: dict[str, int]) -> set[int]:
        """Of whom a predicate of one argument is true."""
        return {ids[fact[0]] for fact in self.facts[predicate] if fact and fact[0] in ids}

    def _place_receptacles(self) -> None:
        """Which receptacles stand at each location, and where the agent is at the start."""
        name, locations = self.game.name, {}
        self.places = [-1] * len(self.receptacle_names)  # -1: nowhere
        for r, location in self.pairs("receptacleatlocation", self.receptacle_ids):
            place = locations.setdefault(location, len(locations))
            if self.places[r] not in (-1, place):
                raise ValueError(f"{name}: the {self.receptacle_names[r]} stands at two locations")
            self.places[r] = place
        starts = [place for agent, place in self.pairs("atlocation") if agent == self.game.agent]
        if len(starts) != 1:
            raise ValueError(f"{name}: the agent must start at one location, not {len(starts)}")
        self.start = locations.setdefault(starts[0], len(locations))
        self.locations = locations
        self.standing: list[list[int]] = [[] for _ in locations]
        for r, place in enumerate(self.places):
            if place >= 0:
                self.standing[place].append(r)

    def _read_abilities(self) -> None:
        receptacles, objects = self.receptacle_ids, self.object_ids
        self.openable = self.numbers("openable", receptacles)
        self.opened = self.numbers("opened", receptacles)
        self.can = {
            "take": self.numbers("pickupable", objects),
            "clean": self.numbers("cleanable", objects),
            "heat": self.numbers("heatable", objects),
            "cool": self.numbers("coolable", objects),
            "use": self.numbers("toggleable", objects),
            "slice": self.numbers("sliceable", objects),
        }
        self.is_container = self.numbers("isreceptacleobject", objects)
        self.insides: dict[int, list[int]] = defaultdict(list)
        for inner, outer in self.pairs("inreceptacleobject", objects, objects):
            if inner != outer:
                self.insides[outer].append(inner)
        takes: dict[str, set[str]] = defaultdict(set)
        for receptacle_type, object_type in self.pairs("cancontain"):
            takes[receptacle_type.removesuffix("type")].add(object_type.removesuffix("type"))
        of_kind: dict[str, set[int]] = defaultdict(set)
        for o, kinds in enumerate(self.object_kinds):
            for kind in kinds:
                of_kind[kind].add(o)
        self.holds = [
            set().union(*(of_kind[thing] for kind in kinds for thing in takes[kind]))
            for kinds in self.receptacle_kinds
        ]
        self.knives = set().union(*(of_kind[kind] for kind in KNIVES))
        self.of_kind = of_kind

    def _read_goal(self) -> None:
        goal = self.game.goal
        self.wanted = set(self.of_kind[goal.object])
        self.lamps = self.of_kind[goal.target] & self.can["use"]
        self.targets = [r for r, kinds in enumerate(self.receptacle_kinds) if goal.target in kinds]
        if goal.task_type in TREATMENTS:
            self.wanted &= self.can[goal.task_type.split("_")[1]]

    def _write_commands(self) -> None:
        names = self.receptacle_names
        everywhere = [r for r, place in enumerate(self.places) if place >= 0]
        self.moves = [
            [f"go to {names[r]}" for r in everywhere if self.places[r] != place]
            + ["help", "inventory", "look"]
            for place in range(len(self.standing))
        ]
        self.everywhere = everywhere

    def short_start(self) -> str:
        """What the agent reads first in the short form."""
        return short_start(self.game.goal, [self.receptacle_names[r] for r in self.everywhere])


def entity_names(ids: Iterable[str]) -> dict[str, str]:
    """The name of each id, such as "mug 2", the ids sorted: of one kind the last one is number 1.

    The kind is what stands before "_bar_" (ids without one have no name), and a basin is named so.
    """
    ids = sorted(one for one in set(ids) if "_bar_" in one)
    kinds = {one: one.partition("_bar_")[0] + ("basin" if "basin" in one else "") for one in ids}
    left = Counter(kinds.values())
    names = {}
    for one, kind in kinds.items():
        names[one] = f"{kind} {left[kind]}"
        left[kind] -= 1
    return names
