"""What an agent knows from what it has read so far: read from a transcript, in either form."""

from __future__ import annotations

import re

from qsft_lite.tasks.alfworld.engine import WELCOME
from qsft_lite.tasks.alfworld.pddl import TASK_TYPES, Goal, task_texts
from qsft_lite.tasks.alfworld.short import (
    CLOSED,
    INVALID,
    NAME,
    TASK_VERBS,
    long_command,
    read_names,
    short_text,
)
from qsft_lite.tasks.alfworld.text import read_command

ASKED = "Your task is to: "
PATTERNS = [
    (task_type, re.compile(text))
    for task_type in TASK_TYPES
    for text in task_texts(Goal(task_type, r"(?P<object>\w+)", r"(?P<target>\w+)"))
]


def kind_of(name: str) -> str:
    """The kind of a name: "mug" of "mug 2"."""
    return name.partition(" ")[0]


class Memory:
    """What is known in a game.

    Attributes:
        goal: of the task.
        receptacles: their names, in the order of the first text.
        here: the receptacles that the agent is known to stand before.
        contents: of each receptacle that was seen open what is in it.
        closed: the receptacles known to be closed.
        held: what is carried.
        treated: what was cleaned, heated or cooled.
        last: the last command.
        failed: whether the last command did nothing.
    """

    def __init__(self, goal: Goal, receptacles: list[str]) -> None:
        self.goal, self.receptacles = goal, receptacles
        self.here: set[str] = set()
        self.contents: dict[str, list[str]] = {}
        self.closed: set[str] = set()
        self.held: str | None = None
        self.treated: set[str] = set()
        self.last, self.failed = "", False

    def observe(self, command: str, answer: str) -> None:
        """Note what a command did: the command in the original's words, the answer in short."""
        verb, first, second = read_command(command)
        self.last, self.failed = command.strip(), answer == INVALID
        if self.failed:
            if verb == "go" and first in self.receptacles:
                self.here.add(first)  # one cannot go to where one is: it stands here, too
            return
        if verb in ("go", "open", "examine"):
            if verb == "go":
                self.here = {first}
            if first != self.held:
                self._see(first, answer)
        elif verb == "close":
            self.closed.add(first)
        elif verb == "take":
            self.held = first
            if first in self.contents.get(second, ()):
                self.contents[second].remove(first)
        elif verb == "move":
            self.held = None
            self.contents.setdefault(second, []).append(first)
        elif verb in ("clean", "heat", "cool"):
            self.treated.add(first)
        elif verb == "look" and answer.startswith("facing "):
            self.here.update(read_names(answer.partition(":")[0]))

    def _see(self, receptacle: str, answer: str) -> None:
        if answer == CLOSED:
            self.closed.add(receptacle)
        else:
            self.closed.discard(receptacle)
            self.contents[receptacle] = read_names(answer)

    def places_of(self, kind: str) -> list[tuple[str, str]]:
        """Where things of a kind were last seen: (thing, receptacle)."""
        return [
            (thing, receptacle)
            for receptacle, things in self.contents.items()
            for thing in things
            if kind_of(thing) == kind
        ]


def start_memory(text: str) -> Memory:
    """What the first text tells; ValueError for a text of which the task is not understood."""
    if not text.startswith(WELCOME):
        return _short_start(text)
    room, _, asked = text.partition(ASKED)
    asked = asked.strip().removesuffix(".")
    for task_type, pattern in PATTERNS:
        if match := pattern.fullmatch(asked):
            goal = Goal(task_type, match["object"], match["target"])
            return Memory(goal, NAME.findall(room.partition("you see")[2]))
    raise ValueError(f"{asked[:200]!r} is none of the phrases that ALFWorld writes a task in")


def _short_start(text: str) -> Memory:
    task, _, receptacles = text.partition(" : ")
    types = {verb: task_type for task_type, verb in TASK_VERBS.items()}
    words = task.split()
    if len(words) != 3 or words[0] not in types:
        raise ValueError(f"{text[:200]!r} is no first text of ALFWorld")
    return Memory(Goal(types[words[0]], words[1], words[2]), read_names(receptacles))


def read_history(history: str) -> tuple[Memory, bool]:
    """What a transcript tells, and whether it is in the short form."""
    start, turns = _cut(history)
    short = not history.startswith(WELCOME)
    memory = start_memory(start)
    for command, answer in turns:
        if short:
            memory.observe(long_command(command), answer.removesuffix("\n"))
        else:
            memory.observe(command, short_text(answer.removesuffix("\n")))
    return memory, short


def _cut(history: str) -> tuple[str, list[tuple[str, str]]]:
    """The first text, and each action with its answer."""
    segments = getattr(history, "segments", None)  # a Transcript knows them
    if segments:
        texts = [text for text, _ in segments]
        return texts[0], list(zip(texts[1::2], texts[2::2], strict=False))
    head, asked, rest = history.partition(ASKED)
    if not asked:
        head, rest = "", history
    task, _, rest = rest.partition("\n")
    lines = rest.splitlines()
    turns = []
    while len(lines) >= 2:
        command, answer = lines[:2]
        end = 2
        if command.strip() == "help" and "" in lines:  # whose answer ends with an empty line
            end = lines.index("") + 1
            answer = "\n".join(lines[1:end])
        turns.append((command, answer))
        lines = lines[end:]
    return head + asked + task, turns
