r"""How states and commands are written: in the original's words, and in a short form of ours."""

from __future__ import annotations

import string
from collections.abc import Sequence
from functools import cache, lru_cache

from qsft_lite.tasks.alfworld.rooms import holds, object_types

NOTHING_HAPPENS = "Nothing happens."
HELP = """Available commands:
  look:                             look around your current location
  inventory:                        check your current inventory
  go to (receptacle):               move to a receptacle
  open (receptacle):                open a receptacle
  close (receptacle):               close a receptacle
  take (object) from (receptacle):  take an object from a receptacle
  move (object) to (receptacle):  place an object in or on a receptacle
  examine (something):              examine a receptacle or an object
  use (object):                     use an object
  heat (object) with (receptacle):  heat an object using a receptacle
  clean (object) with (receptacle): clean an object using a receptacle
  cool (object) with (receptacle):  cool an object using a receptacle
  slice (object) with (object):     slice an object using a sharp object
"""

ALONE = ("look", "inventory", "help")
ON_ONE = ("open", "close", "examine", "use")
# Of each command on two things what stands between them. "put" is what "move" was called before.
BETWEEN = {
    "take": (" from ",),
    "move": (" to ",),
    "put": (" in/on ", " in ", " on "),
    "clean": (" with ",),
    "heat": (" with ",),
    "cool": (" with ",),
    "slice": (" with ",),
}
NO_COMMAND = ("", "", "")
# Types of the original's objects that no game of ours has.
OTHER_OBJECTS = (
    "bathtub", "blinds", "boots", "chair", "curtains", "faucet", "floorlamp", "footstool",
    "houseplant", "lamp", "laundryhamperlid", "lightswitch", "mirror", "painting",
    "papertowelroll", "poster", "scrubbrush", "showercurtain", "showerdoor", "showerglass",
    "showerhead", "sink", "stoveknob", "teddybear", "television", "window",
)  # fmt: skip


@lru_cache(maxsize=1 << 16)
def read_command(text: str) -> tuple[str, str, str]:
    """A command's verb and what it names, "" for what it lacks; NO_COMMAND for another text."""
    text = text.strip()
    verb, _, rest = text.partition(" ")
    if text in ALONE:
        return text, "", ""
    if verb == "go" and rest.startswith("to "):
        return "go", rest[3:], ""
    if verb in ON_ONE:
        return verb, rest, ""
    for word in BETWEEN.get(verb, ()):
        first, found, second = rest.partition(word)
        if found:
            return "move" if verb == "put" else verb, first, second
    return NO_COMMAND


def listed(names: Sequence[str]) -> str:
    """Names as the original lists them, with the last comma even between two."""
    if not names:
        return "nothing"
    return ", ".join(names[:-1]) + ", and " + names[-1] if len(names) > 1 else names[0]


def canonical(command: str) -> str:
    """A command in alfworld 0.4.2's words: "put X in/on Y" becomes "move X to Y"."""
    verb, first, second = read_command(command)
    return f"move {first} to {second}" if verb == "move" else command.strip()


@cache
def names() -> frozenset[str]:
    """The types of all receptacles and objects."""
    return frozenset({*holds(), *object_types(), *OTHER_OBJECTS})


def parts(word: str) -> list[tuple[str, str]]:
    """What a short word has in common with others: its name, its number, and what it is."""
    core, end = word[:-1], word[-1]
    name = core.rstrip(string.digits)
    if name == core:
        return [("word", core), ("kind", ("name" if core in names() else "word") + end)]
    return [("word", name), ("number", core[len(name) :]), ("kind", "thing" + end)]
