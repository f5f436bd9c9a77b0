r"""A short form of texts and commands, for small networks that start from scratch.

    text                                                              short
    go to fridge 1                                                    go fridge 1
    You arrive at fridge 1. The fridge 1 is closed.                   closed
    take mug 2 from shelf 1                                           take mug 2 shelf 1
    You pick up the mug 2 from the shelf 1.                           done
    On the shelf 1, you see a mug 2, and a plate 1.                   mug 2 plate 1
    Nothing happens.                                                  invalid

A word is a verb, the name of a kind, or a number, and nothing is lost that the agent needs. The
first text has the task, then how many receptacles of each kind there are, numbered from 1:
"heat potato sinkbasin : cabinet 8 countertop 2 fridge 1 ...".
"""

from __future__ import annotations

import re
from collections import Counter

from qsft_lite.tasks.alfworld.pddl import Goal
from qsft_lite.tasks.alfworld.text import (
    BETWEEN,
    HELP,
    NO_COMMAND,
    NOTHING_HAPPENS,
    read_command,
)

TASK_VERBS = {
    "pick_and_place_simple": "put",
    "look_at_obj_in_light": "light",
    "pick_clean_then_place_in_recep": "clean",
    "pick_heat_then_place_in_recep": "heat",
    "pick_cool_then_place_in_recep": "cool",
    "pick_two_obj_and_place": "two",
}
CLOSED, NOTHING, INVALID, DONE, PLAIN = "closed", "nothing", "invalid", "done", "plain"
NAME = re.compile(r"[a-z]+ \d+")
QUALITIES = ("hot", "cool", "cold", "clean", "sliced", "on")  # of an examined object


def short_command(command: str) -> str:
    """A command without the words between what it names."""
    verb, first, second = read_command(command)
    return " ".join(word for word in (verb, first, second) if word) or command


def long_command(command: str) -> str:
    """The command that a short one stands for; another text is returned as it is."""
    words = command.split()
    if read_command(command) != NO_COMMAND or len(words) not in (3, 5):
        return command
    verb, first = words[0], f"{words[1]} {words[2]}"
    if len(words) == 3:
        return f"go to {first}" if verb == "go" else command
    between = BETWEEN.get(verb, (" ",))[0]
    return f"{verb} {first}{between}{words[3]} {words[4]}"


def short_text(text: str) -> str:
    """An answer of an engine, in short."""
    if text == NOTHING_HAPPENS:
        return INVALID
    if text.endswith("is closed."):
        return CLOSED
    _, found, seen = text.rpartition("you see ")
    if text.startswith("You are facing the "):
        facing = text.partition(". ")[0]
        return f"facing {_names(facing)} : {_names(seen)}"
    if found:
        return _names(seen)
    if text.startswith("You are "):
        return _names(text)  # what is carried
    if text.startswith("This "):
        words = text.rstrip(".").split()
        return " ".join(word for word in words if word in QUALITIES) or PLAIN
    if text.startswith("There's nothing special"):
        return PLAIN
    return "help" if text == HELP else DONE


def _names(text: str) -> str:
    return " ".join(NAME.findall(text)) or NOTHING


def short_start(goal: Goal, receptacles: list[str]) -> str:
    """The task, and how many receptacles of each kind there are."""
    kinds = Counter(name.rpartition(" ")[0] for name in receptacles)
    counts = " ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
    return f"{TASK_VERBS[goal.task_type]} {goal.object} {goal.target} : {counts}"
