r"""Twenty Questions in tables: objects, questions and answers, and the text of each.

W is the number of objects and Q that of the questions: first those about attributes ("Is it made of
wood?"), then those about categories ("Is it a tool?"), then one guess an object ("Is it a
guitar?"). A question is its index. The table holds every answer.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from reprlib import repr as brief
from typing import Any, NamedTuple

import numpy as np

from qsft_lite.files import read_lines
from qsft_lite.tasks.guessing import Rules
from qsft_lite.tasks.twenty_questions.text import (
    NO,
    START,
    YES,
    guessed_name,
    normalize,
    plural,
    without_kind,
)

TURNS = 20
UNKNOWN = -1  # the index of a question that the oracle does not understand
OBJECT_COLUMNS = ("object", "guess", "other names", "category", "attributes")
GUESSES = ("Is it {}?", "Is the object {}?", "Could it be {}?")


class Thing(NamedTuple):
    """An object: "guitar", "a guitar", its other names, its category and its attributes."""

    name: str
    guess: str
    other_names: tuple[str, ...]
    category: str
    attributes: frozenset[str]


class Topic(NamedTuple):
    """What a question can be about: an attribute or a category, with the ways to ask."""

    kind: str
    name: str
    phrasings: tuple[str, ...]


def read_objects(objects: str | Path | Iterable[Thing] | None = None) -> tuple[Thing, ...]:
    """The objects of a file or a sequence; the shipped ones when None.

    The file is a table with tabs and the columns of OBJECT_COLUMNS (an empty guess is the name with
    its article).

    Raises ValueError, naming file and line (or position), for a bad table.
    """
    if objects is None:
        objects = _words() / "objects.tsv"
    if isinstance(objects, str):
        objects = Path(objects)
    if not hasattr(objects, "read_text"):
        name, things = "objects", list(enumerate(objects, start=1))
        for line, thing in things:
            if not isinstance(thing, Thing):
                raise ValueError(
                    f"objects:{line}: {brief(thing)} is no Thing; see also read_objects"
                )
    else:
        name = str(objects)
        table = _read_table(objects, OBJECT_COLUMNS)
        things = [(line, _read_thing(row)) for line, row in table]
    known = {topic.name for topic in read_topics() if topic.kind == "attribute"}
    for line, thing in things:
        for attribute in sorted(thing.attributes - known):
            raise ValueError(
                f"{name}:{line}: no question is about the attribute {attribute!r} of {thing.name}; "
                f"there are: {', '.join(sorted(known))}"
            )
    if not things:
        raise ValueError(f"{name} has no objects")
    return tuple(thing for _, thing in things)


def read_topics() -> tuple[Topic, ...]:
    """The attributes and categories that the shipped questions are about, in their order."""
    table = _read_table(_words() / "questions.tsv", ("kind", "name", "questions"))
    return tuple(Topic(row["kind"], row["name"], _split(row["questions"])) for _, row in table)


class TwentyQuestionsRules(Rules):
    r"""Objects and questions with the table of all answers and the text of every question.

    names: W objects; categories: (W,) list of theirs. attributes: names of the first questions.
    table: (Q, W) bool, the answer to each question about each object. guesses: the slice of
    questions that are guesses. question_texts: Q actions, the usual phrasing of each question.

    The oracle (`read_question`) understands the other phrasings too, and small changes of them. A
    question that it does not understand has the index UNKNOWN, and the answer is "No.", since the
    game knows no third. objects: see `read_objects`.
    """

    start = START
    turns = TURNS
    answer_texts = (NO, YES)

    def __init__(self, objects: str | Path | Iterable[Thing] | None = None) -> None:
        self.things = read_objects(objects)
        self.names = tuple(thing.name for thing in self.things)
        self.categories = [thing.category for thing in self.things]
        topics = _topics(self.things)
        self.attributes = tuple(topic.name for topic in topics if topic.kind == "attribute")
        self.guesses = slice(len(topics), len(topics) + len(self.things))
        told = [[_holds(topic, thing) for thing in self.things] for topic in topics]
        self.table = np.concatenate([np.array(told), np.eye(len(self.things), dtype=bool)])
        spoken = [topic.phrasings for topic in topics]
        spoken += [tuple(form.format(thing.guess) for form in GUESSES) for thing in self.things]
        self._meanings = _index_phrasings(spoken[: len(topics)])
        self._guess_index = _index_names(self.things)
        self._read: dict[str, int] = {}
        for question, texts in enumerate(spoken):
            for text in texts:
                if self.read_question(text) != question:
                    raise ValueError(f"{text!r} is not understood as it is meant: rename it")
        self.action_texts = self.question_texts = tuple(f"{texts[0]}\n" for texts in spoken)

    @cached_property
    def sha256(self) -> str:
        """Hash of objects, answers and questions: what a recorded result should name."""
        questions = [[text] for text in self.question_texts]
        content = (self.names, questions, self.table.astype(int).tolist())
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def secret_index(self, name: str) -> int:
        """The index of an object by any of its names; ValueError with the closest ones."""
        if not isinstance(name, str):
            raise TypeError(f"an object is named by a text, got {brief(name)}")
        index = self._guess_index.get(normalize(name))
        if index is not None:
            return index
        close = ", ".join(difflib.get_close_matches(name.lower(), self._guess_index)) or "none"
        raise ValueError(f"{brief(name)} is not among the objects; close to it: {close}")

    def read_question(self, text: str) -> int:
        """The question that an action text means, UNKNOWN when the oracle does not understand it.

        Case, punctuation, the newline, articles and words like "usually" do not matter. A guess
        must name the whole object and no more: neither "Is it a ball?" nor "Is it a tennis ball
        can?" means the tennis ball.
        """
        if text not in self._read:
            if len(self._read) > 100_000:  # a policy may write anything
                self._read.clear()
            self._read[text] = self._understand(text)
        return self._read[text]

    def _understand(self, text: str) -> int:
        words = normalize(text)
        meaning = self._meanings.get(words, self._meanings.get(without_kind(words)))
        if meaning is not None:
            return meaning
        guess = self._guess_index.get(guessed_name(text))
        return UNKNOWN if guess is None else self.guesses.start + guess

    def is_guess(self, question: int | np.ndarray) -> bool | np.ndarray:
        """Whether questions are guesses, elementwise."""
        return question >= self.guesses.start

    def wins(self, questions: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """(N,) bool: the question is a guess, and the answer is yes."""
        return answers & self.is_guess(questions)

    def answer(self, question: int, index: int) -> bool:
        """The answer to a question about an object; UNKNOWN is answered False."""
        return question != UNKNOWN and bool(self.table[question, index])

    def read_turn(self, action: str, answer: str) -> tuple[int, bool] | None:
        """See `Rules.read_turn`."""
        if f"{answer}\n" not in (YES, NO):
            return None
        return self.read_question(action), f"{answer}\n" == YES

    def consistent(self, turns: Iterable[tuple[int, bool]]) -> np.ndarray:
        """(W,) bool: the objects that explain the most answers, all of them if there are such.

        The oracle of a language model may contradict the table, and then no object explains all.
        A question that was not understood tells nothing.
        """
        explained = np.zeros(len(self.names), dtype=np.int64)
        for question, answer in turns:
            if question != UNKNOWN:
                explained += self.table[question] == answer
        return explained == explained.max()


def _words() -> Any:
    return files("qsft_lite.tasks.twenty_questions") / "words"


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(";") if part.strip())


def _with_article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _read_thing(row: dict[str, str]) -> Thing:
    name = row["object"].strip().lower()
    return Thing(
        name,
        row["guess"].strip() or _with_article(name),
        _split(row["other names"]),
        row["category"].strip().lower(),
        frozenset(row["attributes"].split()),
    )


def _read_table(path: Any, columns: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """The (line, row) pairs of a table with tabs; ValueError when a row or a column is missing."""
    lines = read_lines(path)
    header = lines[0].split("\t") if lines else []
    missing = [column for column in columns if column not in header]
    if missing:
        raise ValueError(
            f"{path}:1: no column {missing[0]!r}; the table needs {', '.join(columns)}"
        )
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split("\t")
        if len(cells) != len(header) or not cells[0].strip():
            raise ValueError(f"{path}:{number}: {len(header)} cells expected, got {brief(cells)}")
        rows.append((number, dict(zip(header, cells, strict=True))))
    return rows


def _topics(things: tuple[Thing, ...]) -> tuple[Topic, ...]:
    """The shipped attributes and the categories of these objects.

    A category that the shipped questions do not know is asked for by its name, in the singular or
    the plural as it stands.
    """
    shipped = read_topics()
    attributes = [topic for topic in shipped if topic.kind == "attribute"]
    categories = {topic.name: topic for topic in shipped if topic.kind == "category"}
    ordered = sorted({thing.category for thing in things})
    taken = {normalize(text) for topic in attributes for text in topic.phrasings}
    asked = []
    for name in ordered:
        # A category may be called as an attribute is: "animal", "food".
        texts = [text for text in _category_phrasings(name) if normalize(text) not in taken]
        asked.append(categories.get(name, Topic("category", name, tuple(texts))))
    return (*attributes, *asked)


def _category_phrasings(name: str) -> tuple[str, ...]:
    return f"Is it in the category {name}?", f"Is it one of the {name}?", f"Is it a {name}?"


def _holds(topic: Topic, thing: Thing) -> bool:
    return topic.name in (thing.attributes if topic.kind == "attribute" else {thing.category})


def _index_phrasings(spoken: list[tuple[str, ...]]) -> dict[str, int]:
    """From each normalized phrasing to its question; ValueError when two questions share one.

    Of a question like "Is it a tool?" also the plural, which "Are they tools?" is read as.
    """
    index: dict[str, int] = {}
    for question, texts in enumerate(spoken):
        for text in texts:
            if index.setdefault(normalize(text), question) != question:
                raise ValueError(f"{text!r} is a phrasing of two questions")
    for words, question in list(index.items()):
        if re.fullmatch(r"is it [a-z]+", words):
            index.setdefault(normalize(plural(words)), question)
    return index


def _index_names(things: tuple[Thing, ...]) -> dict[str, int]:
    """From each normalized name, singular or plural, to its object; ValueError when shared."""
    index: dict[str, int] = {}
    for number, thing in enumerate(things):
        for name in (thing.name, *thing.other_names):
            for form in (name, plural(name)):
                if index.setdefault(normalize(form), number) != number:
                    other = things[index[normalize(form)]].name
                    raise ValueError(f"{form!r} names both {other} and {thing.name}")
    return index
