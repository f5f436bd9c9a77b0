r"""Every word of a transcript, for a tokenizer of words (`models.word_tokenizer`).

A word ends with its space or newline. A name and its number are two words, "mug ", "2, ", and one
in the short form, "mug2 ".
"""

from __future__ import annotations

from functools import cache

from qsft_lite.tasks.alfworld.engine import MIDDLE, WELCOME
from qsft_lite.tasks.alfworld.pddl import TASK_TYPES, Goal, task_texts
from qsft_lite.tasks.alfworld.rooms import rooms
from qsft_lite.tasks.alfworld.short import QUALITIES, TASK_VERBS
from qsft_lite.tasks.alfworld.text import ALONE, BETWEEN, HELP, NOTHING_HAPPENS, ON_ONE, names

MOST = 40  # of one kind in a room; AI2-THOR's rooms have up to 28 cabinets
MOST_THINGS = 9  # of one kind, or of a receptacle that no room of ours has more of
SENTENCES = (
    f"{WELCOME}\n\n{MIDDLE} nothing.\n",
    f"{MIDDLE} a ",
    "You are facing the ",
    "Next to it, you see nothing.\n",
    "You arrive at ",
    "On the ",
    "The fridge 1 is closed.\n",
    "The fridge 1 is open. In it, you see a ",
    "You open the ",
    "You close the ",
    "You pick up the mug 1 from the ",
    "You move the mug 1 to the ",
    "You clean the mug 1 using the ",
    "You heat the mug 1 using the ",
    "You cool the mug 1 using the ",
    "You turn on the ",
    "You sliced the mug 1 with the ",
    "You are not carrying anything.\n",
    "You are carrying: a ",
    "This is a normal hot and clean sliced cool cold ",
    "This lamp is on.\n",
    "There's nothing special about ",
    "go to take from move to put in/on clean with heat with open close use examine and ",
    "look\ninventory\nhelp\n",
    f"{NOTHING_HAPPENS}\n",
    f"{HELP}\n",
)
SHORT_STATES = ("closed", "nothing", "invalid", "done", "plain", "help")


def text_words() -> tuple[str, ...]:
    """Texts with every word of a transcript in the original's words."""
    asked = [
        f"Your task is to: {text}.\n"
        for task_type in TASK_TYPES
        for text in task_texts(Goal(task_type, "mug", "shelf"))
    ]
    ends = [f"{name}{end}" for name in sorted(names()) for end in (" ", ".\n")]
    numbers = [f"{n}{end}" for n in range(1, MOST + 1) for end in (" ", ", ", ". ", ".\n", "\n")]
    return (*SENTENCES, *asked, *ends, *numbers)


def short_words() -> tuple[str, ...]:
    """Every word of a transcript in the short form."""
    verbs = {*TASK_VERBS.values(), *ON_ONE, *BETWEEN, "go", "facing", ":", *names()}
    words = {f"{word} " for word in verbs} | {f"{word}\n" for word in (*ALONE, *SHORT_STATES)}
    things = [f"{name}{n}" for name in names() for n in range(1, most_of(name) + 1)]
    return tuple(sorted(words | {word + end for word in (*QUALITIES, *things) for end in " \n"}))


@cache
def most_of(name: str) -> int:
    """How many things of a name there may be."""
    counts = [sum(kind == name for kind, _ in room.receptacles) for room in rooms().values()]
    return max(MOST_THINGS, *counts)
