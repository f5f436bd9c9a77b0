"""Games as PDDL problems of ALFWorld's domain: read, checked and written.

Fast Downward, which the original plays with, reads names in lower case; so does this file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

Fact = tuple[str, ...]  # a predicate and its arguments, such as ("opened", "fridge_bar_...")

TASK_TYPES = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)
# Of each task that treats an object: what must be possible, and what must be done.
TREATMENTS = {
    "pick_clean_then_place_in_recep": ("cleanable", "isclean"),
    "pick_heat_then_place_in_recep": ("heatable", "ishot"),
    "pick_cool_then_place_in_recep": ("coolable", "iscool"),
}
PLACED = {"objecttype", "receptacletype", "inreceptacle"}  # predicates of "o is in r"
LIT = {"toggleable", "istoggled", "receptacleatlocation", "atlocation", "holds"}


@dataclass(frozen=True)
class Goal:
    """What wins a game.

    Attributes:
        task_type: one of TASK_TYPES.
        object: the type of what is to be brought, in lower case, such as "potato".
        target: the type of the receptacle to put it in, or of the lamp to look at it under.
    """

    task_type: str
    object: str
    target: str


@dataclass(frozen=True)
class Game:
    """A game, whatever engine plays it.

    Attributes:
        name: of the game: its number in a split, or its folder.
        task: what the agent is asked to do, such as "put a hot potato in sinkbasin".
        goal: what wins.
        agent: who plays.
        kinds: of each name its PDDL type: object, receptacle, location, ...
        facts: what is true at the start, in lower case.
    """

    name: str
    task: str
    goal: Goal
    agent: str
    kinds: dict[str, str]
    facts: frozenset[Fact]


class Node(list):
    """A bracket of a PDDL file: its words and brackets, and the line it begins on."""

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line

    @property
    def head(self) -> str:
        """The first word, "" where there is none."""
        return self[0] if self and isinstance(self[0], str) else ""


def read_problem(text: str, name: str = "the problem", task: str | None = None) -> Game:
    """The game of a PDDL problem.

    name: of the file, for messages and as the game's name. task: by default the first of the
    original's two phrases for the goal. Of several agents the first one plays, alone.

    Raises ValueError, naming the file and the line, for what is no such problem.
    """
    sections = {node.head: node for node in _brackets(text, name)}
    for section in (":objects", ":init", ":goal"):
        if section not in sections:
            raise ValueError(f"{name} has no {section}: it is no whole PDDL problem")
    kinds = _read_kinds(sections[":objects"], name)
    agents = [one for one, kind in kinds.items() if kind == "agent"]
    if not agents:
        raise ValueError(f"{name}, line {sections[':objects'].line}: no agent among the objects")
    others = set(agents[1:])
    facts = {fact for fact in _read_facts(sections[":init"], kinds, name)}
    facts = frozenset(fact for fact in facts if not others & set(fact))
    goal = _read_goal(sections[":goal"], name)
    kinds = {one: kind for one, kind in kinds.items() if one not in others}
    return Game(name, task or task_texts(goal)[0], goal, agents[0], kinds, facts)


def _brackets(text: str, name: str) -> list[Node]:
    """The sections of (define ...)."""
    root = Node(1)
    stack = [root]
    for number, line in enumerate(text.lower().splitlines(), 1):
        for token in re.findall(r"[()]|[^\s()]+", line.partition(";")[0]):
            if token == "(":
                node = Node(number)
                stack[-1].append(node)
                stack.append(node)
            elif token == ")":
                if len(stack) == 1:
                    raise ValueError(f"{name}, line {number}: a ) that closes nothing")
                stack.pop()
            else:
                stack[-1].append(token)
    if len(stack) > 1:
        raise ValueError(f"{name}: the ( of line {stack[-1].line} is never closed")
    if len(root) != 1 or not isinstance(root[0], Node) or root[0].head != "define":
        raise ValueError(f"{name} is no PDDL problem: it must be one (define (problem ...) ...)")
    return [node for node in root[0] if isinstance(node, Node)]


def _read_kinds(node: Node, name: str) -> dict[str, str]:
    """The type of each object: names, a dash, their type, and so on."""
    kinds: dict[str, str] = {}
    waiting: list[str] = []
    words = iter(node[1:])
    for word in words:
        if not isinstance(word, str):
            raise ValueError(f"{name}, line {word.line}: a bracket among the objects")
        if word != "-":
            waiting.append(word)
            continue
        kind = next(words, None)
        if not isinstance(kind, str):
            raise ValueError(f"{name}, line {node.line}: a - in :objects without a type after it")
        kinds.update(dict.fromkeys(waiting, kind))
        waiting = []
    if waiting:
        raise ValueError(f"{name}, line {node.line}: {waiting[0]} in :objects has no type")
    return kinds


def _read_facts(node: Node, kinds: dict[str, str], name: str) -> Iterator[Fact]:
    """What is true at the start; (= (total-cost) 0) and its like are left out."""
    for item in node[1:]:
        if not isinstance(item, Node):
            raise ValueError(f"{name}, line {node.line}: {item!r} in :init stands in no brackets")
        if item.head == "=":
            continue
        if not item.head or not all(isinstance(word, str) for word in item):
            raise ValueError(f"{name}, line {item.line}: no fact such as (opened fridge)")
        unknown = [word for word in item[1:] if word not in kinds]
        if unknown:
            raise ValueError(f"{name}, line {item.line}: {unknown[0]} is not among the :objects")
        yield tuple(item)


def _read_goal(node: Node, name: str) -> Goal:
    """Which of the six goals it is; ValueError for another one."""
    atoms, operators, waiting = [], set(), list(node[1:])
    while waiting:
        item = waiting.pop()
        if not isinstance(item, Node) or item.head.startswith("?"):
            continue  # words, and the variables of (exists (...) ...)
        if item.head in ("and", "exists", "not"):
            operators.add(item.head)
            waiting.extend(item[1:])
        else:
            atoms.append(tuple(word for word in item if isinstance(word, str)))
    types = {atom[1]: atom[2].removesuffix("type") for atom in atoms if _is_type(atom)}
    heads = {atom[0] for atom in atoms if atom}
    kind = _task_type(heads, "not" in operators)
    try:
        if kind == "look_at_obj_in_light":
            lamp = next(atom[1] for atom in atoms if atom[0] == "istoggled")
            held = next(atom[2] for atom in atoms if atom[0] == "holds")
            return Goal(kind, types[held], types[lamp])
        things = {atom[1] for atom in atoms if atom[0] == "inreceptacle"}
        places = {atom[2] for atom in atoms if atom[0] == "inreceptacle"}
        [thing], [place] = {types[one] for one in things}, {types[one] for one in places}
        if kind is None or (len(things) == 2) != (kind == "pick_two_obj_and_place"):
            raise ValueError
        return Goal(kind, thing, place)
    except (ValueError, KeyError, IndexError, StopIteration):
        raise ValueError(
            f"{name}, line {node.line}: the goal is none of the six tasks: {', '.join(TASK_TYPES)}"
        ) from None


def _is_type(atom: Fact) -> bool:
    return len(atom) == 3 and atom[0] in ("objecttype", "receptacletype")


def _task_type(heads: set[str], negation: bool) -> str | None:
    """The task whose goal has these predicates; None where it is no such task."""
    if heads == {"objecttype", "inreceptacle"} | LIT:
        return None if negation else "look_at_obj_in_light"
    if negation:
        return "pick_two_obj_and_place" if heads == PLACED | {"="} else None
    for task_type, predicates in TREATMENTS.items():
        if heads == PLACED | set(predicates):
            return task_type
    return "pick_and_place_simple" if heads == PLACED else None


def task_texts(goal: Goal) -> tuple[str, str]:
    """The original's two phrases for a goal."""
    thing, place = goal.object, goal.target
    return {
        "pick_and_place_simple": (f"put a {thing} in {place}", f"put some {thing} on {place}"),
        "look_at_obj_in_light": (
            f"look at {thing} under the {place}",
            f"examine the {thing} with the {place}",
        ),
        "pick_clean_then_place_in_recep": (
            f"put a clean {thing} in {place}",
            f"clean some {thing} and put it in {place}",
        ),
        "pick_heat_then_place_in_recep": (
            f"put a hot {thing} in {place}",
            f"heat some {thing} and put it in {place}",
        ),
        "pick_cool_then_place_in_recep": (
            f"put a cool {thing} in {place}",
            f"cool some {thing} and put it in {place}",
        ),
        "pick_two_obj_and_place": (
            f"put two {thing} in {place}",
            f"find two {thing} and put them in {place}",
        ),
    }[goal.task_type]


def write_problem(game: Game) -> str:
    """The game as a PDDL problem, which any engine of ALFWorld's domain can play."""
    names = sorted(game.kinds, key=lambda one: (game.kinds[one], one))
    objects = "\n".join(f"    {one} - {game.kinds[one]}" for one in names)
    facts = "\n".join(f"    ({' '.join(fact)})" for fact in sorted(game.facts))
    return (
        f"(define (problem game)\n  (:domain alfred)\n  (:objects\n{objects}\n  )\n"
        f"  (:init\n{facts}\n  )\n  (:goal {_goal_text(game.goal)})\n)\n"
    )


def _goal_text(goal: Goal) -> str:
    thing, place = f"{goal.object}type", f"{goal.target}type"
    placed = f"(objecttype ?o {thing}) (receptacletype ?r {place}) (inreceptacle ?o ?r)"
    if goal.task_type == "look_at_obj_in_light":
        return (
            "(and (exists (?t - object ?r - receptacle ?a - agent ?l - location) (and "
            f"(objecttype ?t {place}) (toggleable ?t) (istoggled ?t) (receptacleatlocation ?r ?l) "
            "(atlocation ?a ?l) (inreceptacle ?t ?r))) "
            f"(exists (?o - object ?a - agent) (and (objecttype ?o {thing}) (holds ?a ?o))))"
        )
    if goal.task_type == "pick_two_obj_and_place":
        other = placed.replace("?o", "?p")
        placed += f" (exists (?p - object) (and (not (= ?o ?p)) {other}))"
    for predicate in TREATMENTS.get(goal.task_type, ()):
        placed = f"({predicate} ?o) {placed}"
    return f"(and (exists (?r - receptacle) (exists (?o - object) (and {placed}))))"
