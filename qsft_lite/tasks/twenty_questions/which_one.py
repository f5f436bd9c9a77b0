r"""Which of these? A choice between two objects that only knowledge of the world can make.

    "onion or milk: Is it a liquid? The"     then the action     " milk\n"

The questions and the truth are those of Twenty Questions (``rules``). One of the objects on offer
has the attribute and pays 1, the other pays 0; the data's player takes either alike, so

    pi_beta(a|s) = 1/2,        Q*(s, a) = 1 if the object has the attribute, else 0

and whatever a policy or a value knows of objects that were never on offer in training, it had
before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import datasets
import numpy as np

from qsft_lite.tasks.twenty_questions.rules import Thing, read_objects, read_topics

__all__ = ["OFFERED", "Choice", "choices", "episodes", "seen_and_unseen"]

OFFERED = 2


class Choice(NamedTuple):
    r"""A question with what is on offer: actions are " name\n"; ``right`` is the one that pays."""

    prompt: str
    actions: tuple[str, ...]
    right: int


def seen_and_unseen() -> tuple[list[Thing], list[Thing]]:
    """Two thirds of the objects, for training, and every third one, for tests alone."""
    things = read_objects()
    unseen = things[2::3]
    return [thing for thing in things if thing not in unseen], list(unseen)


def choices(n: int, seed: int | Sequence[int], things: Sequence[Thing]) -> list[Choice]:
    """n questions about these objects, whose names begin with words of their own in each.

    Each attribute that some of them have, and others lack, is asked for alike; so is each
    object that has it. ValueError where no attribute is of this kind.
    """
    rng = np.random.default_rng(seed)
    sides = []
    for topic in read_topics():
        if topic.kind == "attribute":
            having = [thing.name for thing in things if topic.name in thing.attributes]
            lacking = [thing.name for thing in things if topic.name not in thing.attributes]
            if having and len(lacking) >= OFFERED - 1:
                sides.append((topic.phrasings[0], having, lacking))
    if not sides:
        raise ValueError(f"no attribute tells one of {len(things)} objects from three others")
    found: list[Choice] = []
    while len(found) < n:
        question, having, lacking = sides[rng.integers(len(sides))]
        right = having[rng.integers(len(having))]
        names = [right, *rng.choice(lacking, OFFERED - 1, replace=False).tolist()]
        if len({name.split()[0] for name in names}) < OFFERED:
            continue  # the first token has to tell them apart
        order = rng.permutation(OFFERED)
        names = [names[i] for i in order]
        prompt = f"{', '.join(names[:-1])} or {names[-1]}: {question} The"
        actions = tuple(f" {name}\n" for name in names)
        found.append(Choice(prompt, actions, names.index(right)))
    return found


def episodes(asked: Sequence[Choice], seed: int | Sequence[int]) -> datasets.Dataset:
    """One episode a question, with an action taken at random: columns as of ``envs.generate``."""
    taken = np.random.default_rng(seed).integers(OFFERED, size=len(asked)).tolist()
    pairs = list(zip(asked, taken, strict=True))
    return datasets.Dataset.from_dict(
        {
            "text": [[choice.prompt, choice.actions[one]] for choice, one in pairs],
            "is_action": [[False, True]] * len(pairs),
            "reward": [[0.0, float(one == choice.right)] for choice, one in pairs],
            "done": [True] * len(pairs),
        }
    )
