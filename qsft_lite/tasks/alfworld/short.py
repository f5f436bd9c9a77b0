r"""A short form of texts and commands, for small networks that start from scratch.

    text                                                              short
    go to fridge 1                                                    go fridge1
    You arrive at fridge 1. The fridge 1 is closed.                   closed
    take mug 2 from shelf 1                                           take mug2 shelf1
    You pick up the mug 2 from the shelf 1.                           done
    On the shelf 1, you see a mug 2, and a plate 1.                   mug2 plate1
    Nothing happens.                                                  invalid

A thing is one word, so that a small network can find and repeat it in one step, and nothing is lost
that the agent needs. The first text has the task, then all receptacles:
"heat potato sinkbasin : cabinet2 cabinet1 countertop1 fridge1 ...".
"""

from __future__ import annotations

import re

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
SHORT_NAME = re.compile(r"\b([a-z]+)(\d+)\b")
QUALITIES = ("hot", "cool", "cold", "clean", "sliced", "on")  # of an examined object


def short_command(command: str) -> str:
    """A command without the words between what it names."""
    verb, first, second = read_command(command)
    names = (first.replace(" ", ""), second.replace(" ", ""))
    return " ".join(word for word in (verb, *names) if word) or command


def read_names(text: str) -> list[str]:
    """The names of a short text, as the original writes them: "mug 2" of "mug2"."""
    return [f"{kind} {number}" for kind, number in SHORT_NAME.findall(text)]


def long_command(command: str) -> str:
    """The command that a short one stands for; another text is returned as it is."""
    command = SHORT_NAME.sub(r"\1 \2", command)
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
    return " ".join(name.replace(" ", "") for name in NAME.findall(text)) or NOTHING


def short_start(goal: Goal, receptacles: list[str]) -> str:
    """The task, and all receptacles."""
    task = f"{TASK_VERBS[goal.task_type]} {goal.object} {goal.target}"
    return f"{task} : {_names(' '.join(receptacles))}"
