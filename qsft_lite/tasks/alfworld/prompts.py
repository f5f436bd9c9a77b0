"""Examples for a language model that plays ALFWorld by a prompt: ours, and ReAct's own.

Ours are games that the expert wins, one for each type of task. Its thoughts are written by a rule,
from what it knows: what is asked, then, whenever the next thing to do is another one, that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from qsft_lite.files import read_json_texts
from qsft_lite.tasks.alfworld.engine import WELCOME
from qsft_lite.tasks.alfworld.games import world_of
from qsft_lite.tasks.alfworld.memory import Memory, kind_of, start_memory
from qsft_lite.tasks.alfworld.pddl import TASK_TYPES, TREATMENTS
from qsft_lite.tasks.alfworld.players import ExpertPlayer, play_game
from qsft_lite.tasks.alfworld.short import short_text
from qsft_lite.tasks.alfworld.world import TREATED_WITH

# Of each type of task a training game in which the expert searches, opens something and wins.
GAMES = {
    "pick_and_place_simple": "train/170",
    "look_at_obj_in_light": "train/25",
    "pick_clean_then_place_in_recep": "train/308",
    "pick_heat_then_place_in_recep": "train/202",
    "pick_cool_then_place_in_recep": "train/177",
    "pick_two_obj_and_place": "train/64",
}
# What ReAct calls the types of tasks in its file of prompts (Yao et al., 2022).
REACT_NAMES = dict(zip(TASK_TYPES, "put examine clean heat cool puttwo".split(), strict=True))
INTRODUCTION = "You are in a house and do a task there. This is how such a task is done.\n"
YOURS = "\nNow comes your task.\n"


def alfworld_prompts(
    path: str | Path | None = None, *, thinks: bool = True, numbers: tuple[int, ...] = (1, 0)
) -> dict[str, str]:
    """Of each type of task its examples: one game of ours, or those of ReAct's file.

    path: of ReAct's alfworld_3prompts.json, of which the prompts of these numbers are taken, in
    this order. thinks: with thoughts, or with actions alone.

    Raises ValueError, naming the file and the key, for a file that is no such JSON.
    """
    if path is None:
        return {task_type: example(GAMES[task_type], thinks) for task_type in TASK_TYPES}
    style = "react" if thinks else "act"
    keys = {kind: [f"{style}_{name}_{n}" for n in numbers] for kind, name in REACT_NAMES.items()}
    texts = read_json_texts(path, [key for some in keys.values() for key in some])
    return {task_type: "".join(texts[key] for key in some) for task_type, some in keys.items()}


def prompt_for(prompts: Mapping[str, str]) -> Callable[[str], str]:
    """From a first observation to what a context begins with: its task chooses the examples.

    ValueError, when it is called, for a first text of the short form and for what is none.
    """

    def begin(first: str) -> str:
        if not first.startswith(WELCOME):
            raise ValueError(f"{first[:200]!r} is no first text: prompts need format='text'")
        examples = prompts[start_memory(first).goal.task_type]
        return f"{INTRODUCTION}{examples}{YOURS}{in_lines(first)}"

    return begin


def in_lines(first: str) -> str:
    """A first observation without its welcome and its empty lines."""
    return first.removeprefix(WELCOME).lstrip("\n").replace("\n\n", "\n")


def example(game: str, thinks: bool = True) -> str:
    """A game of the expert as an example, with its thoughts or without."""
    (first, *texts), _ = play_game(world_of(game), ExpertPlayer(0))
    memory, thought, written = start_memory(first), "", in_lines(first)
    for command, answer in zip(texts[::2], texts[1::2], strict=True):
        before, thought = thought, next_thought(memory)
        if thinks and thought != before:
            plan = "" if before else f"{whole_plan(memory)} "
            written += f"> think: {plan}{thought}\nOK.\n"
        written += f"> {command}{answer}"
        memory.observe(command, short_text(answer.removesuffix("\n")))
    return written


def whole_plan(memory: Memory) -> str:
    """What the task asks for, step by step."""
    goal = memory.goal
    if goal.task_type == "look_at_obj_in_light":
        return f"I must take a {goal.object}, and turn on a {goal.target} beside it."
    if goal.task_type == "pick_two_obj_and_place":
        return f"I must bring one {goal.object} to a {goal.target}, and then another {goal.object}."
    steps = [f"take a {goal.object}", f"put it in or on a {goal.target}"]
    if goal.task_type in TREATMENTS:
        verb = goal.task_type.split("_")[1]
        steps.insert(1, f"{verb} it with a {TREATED_WITH[verb]}")
    return f"I must {', then '.join(steps)}."


def next_thought(memory: Memory) -> str:
    """The next thing to do, by what the expert knows; the same text until it is done."""
    goal, held = memory.goal, memory.held
    if held is None:
        seen = memory.places_of(goal.object)
        for thing, receptacle in seen:
            if kind_of(receptacle) != goal.target:
                return f"Now I see {thing} in or on {receptacle}. Next I take it."
        return f"{'One is there. ' * bool(seen)}Next I look for a {goal.object}."
    if goal.task_type in TREATMENTS and held not in memory.treated:
        verb = goal.task_type.split("_")[1]
        return f"Now I have {held}. Next I {verb} it with a {TREATED_WITH[verb]}."
    if goal.task_type != "look_at_obj_in_light":
        return f"{held} is ready. Next I put it in or on a {goal.target}."
    lamps = memory.places_of(goal.target)
    if lamps:
        return f"I have {held}, and {lamps[0][0]} is on {lamps[0][1]}. Next I turn it on."
    return f"Now I have {held}. Next I look for a {goal.target}."
