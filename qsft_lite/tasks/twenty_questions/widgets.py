"""Twenty Questions beside a policy: a transcript, the objects that are left, and each value."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Sequence
from reprlib import repr as brief
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import entr

from qsft_lite import viz
from qsft_lite.policy import QSFTPolicy
from qsft_lite.tasks.twenty_questions.rules import TURNS, UNKNOWN, TwentyQuestionsRules
from qsft_lite.tasks.twenty_questions.text import NO, START, YES
from qsft_lite.viz.explorers import (
    choice,
    command,
    show_explorer,
    step_through,
    text_box,
    write_below,
)
from qsft_lite.viz.plots import VALUE_COLORS, ink

BARS = 8  # candidates shown
CHOOSE = "(choose)"
OBJECT_ROWS = 20  # of the panel of objects


def expected_bits(rules: TwentyQuestionsRules, consistent: np.ndarray) -> np.ndarray:
    """How much the answer to each question is expected to tell, in bits: its entropy.

    consistent: (..., W) bool, the objects that are left, at least one, all equally likely. Returns
    (..., Q), in [0, 1].
    """
    consistent = np.asarray(consistent, dtype=float)
    yes = consistent @ rules.table.T / consistent.sum(axis=-1, keepdims=True)
    return (entr(yes) + entr(1 - yes)) / np.log(2)


def question_table(policy: QSFTPolicy, rules: TwentyQuestionsRules, history: str) -> pd.DataFrame:
    """What the policy thinks of every question after a history, the best first.

    A row has ``question``, its index in the rules, and its ``text``; ``pi``, ``Q`` and ``pi_hat``,
    in [0, 1]; of a policy with a scale also ``Q_task``, in the task's own units; the ``bits`` that
    its answer is expected to tell; and whether it is a ``guess``.
    """
    found = policy.candidates(history, rules.question_texts)
    numbers = np.arange(len(rules.question_texts))
    table = pd.DataFrame(
        {
            "question": numbers,
            "text": [text.strip() for text in rules.question_texts],
            "pi": np.exp(found["log_pi"]),
            **{name: found[name] for name in ("Q", "Q_task") if name in found},
            "pi_hat": np.exp(found["log_pi_hat"]),
            "bits": expected_bits(rules, rules.consistent(rules.read_history(history))),
            "guess": rules.is_guess(numbers),
        }
    )
    # Questions outside the support all have pi_hat 0: the likelier ones first.
    return table.sort_values(["pi_hat", "pi"], ascending=False, ignore_index=True)


def draw_game(
    policy: QSFTPolicy,
    rules: TwentyQuestionsRules,
    texts: Sequence[str],
    asked: int | None = None,
    *,
    table: pd.DataFrame | None = None,
    note: str = "",
) -> Figure:
    """A transcript with the value of each question, the objects left, and the next candidates.

    texts: a transcript: the start, a question, its answer, a question, ... asked: how many of its
    questions have been asked at the moment that is shown; all if None. table: `question_table` of
    that moment, where it is known already. note: a text below. Raises ValueError for more questions
    than the transcript has, or a text that is no transcript.
    """
    turns = rules.read_history("".join(texts))
    asked = len(turns) if asked is None else asked
    if not 0 <= asked <= len(turns):
        raise ValueError(f"the transcript has {len(turns)} questions, got {asked} asked")
    shown = list(texts[: 1 + 2 * asked])
    question, yes = turns[asked - 1] if asked else (0, False)
    won = bool(asked and yes and rules.is_guess(question))
    with viz.figure((12.5, 5.4), fixed=True) as figure:
        columns = -(-len(rules.names) // OBJECT_ROWS)
        widths = [2.3, 0.55 + 0.45 * columns, 1.5]
        edges = {"left": 0.01, "right": 0.99, "bottom": 0.12, "top": 0.87, "wspace": 0.05}
        grid = figure.add_gridspec(1, 3, width_ratios=widths, **edges)
        left, middle, right = (figure.add_subplot(grid[i]) for i in range(3))
        _draw_transcript(left, policy, rules, shown, turns[:asked])
        consistent = rules.consistent(turns[:asked])
        _draw_objects(middle, rules, consistent)
        if won or asked == TURNS:
            right.axis("off")
            right.set_title("found" if won else "not found")
        else:
            if table is None:
                table = question_table(policy, rules, "".join(shown))
            _draw_candidates(right, table.head(BARS))
        figure.suptitle(
            f"After {asked} questions: {int(consistent.sum())} of {len(rules.names)} objects left",
            fontsize=13,
        )
        write_below(figure, note)
    return figure


def _draw_transcript(
    axes: Axes,
    policy: QSFTPolicy,
    rules: TwentyQuestionsRules,
    texts: Sequence[str],
    turns: Sequence[tuple[int, bool]],
) -> None:
    if turns:
        values = policy.values([(text, row % 2 == 1) for row, text in enumerate(texts)])
        values = values[values["is_action"]].reset_index(drop=True)
    for row, (_, yes) in enumerate(turns):
        # Of the older forms it is the quotient p/pi, which may lie above 1.
        q = values["Q"][row] if "Q" in values else min(values["ratio"][row], 1.0)
        told = q if policy.scale is None else policy.scale.to_raw(q)
        box = plt.Rectangle((0, row - 0.45), 0.09, 0.9, facecolor=VALUE_COLORS(q))
        axes.add_patch(box)
        style = {"ha": "center", "va": "center", "fontsize": 9, "color": ink(q)}
        axes.text(0.045, row, f"{told:.2f}", **style)
        said = texts[1 + 2 * row].strip()
        axes.text(0.11, row, textwrap.shorten(said, 46), va="center", fontsize=10)
        left = int(rules.consistent(turns[: row + 1]).sum())
        color = viz.method_color("q_sft") if yes else "#666666"
        answer = "yes" if yes else "no"
        axes.text(0.86, row, answer, va="center", ha="right", fontsize=10, color=color)
        axes.text(0.99, row, str(left), va="center", ha="right", fontsize=10)
    axes.set(xlim=(0, 1), ylim=(max(len(turns), 10) - 0.4, -0.6))
    name = "Q" if policy.score == "paired" else "Q = p/π"
    units = "" if policy.scale is None else " in the task's units"
    axes.set_title(f"{name} of each question{units}; answer; objects left", fontsize=11)
    viz.bare(axes)


def _draw_objects(axes: Axes, rules: TwentyQuestionsRules, consistent: np.ndarray) -> None:
    small = 9 if len(rules.names) <= 2 * OBJECT_ROWS else 6
    for number, (name, there) in enumerate(zip(rules.names, consistent, strict=True)):
        column, row = divmod(number, OBJECT_ROWS)
        weight = "bold" if there else "normal"
        color = viz.method_color("q_sft") if there else "#cccccc"
        axes.text(column, row, name, color=color, weight=weight, va="center", fontsize=small)
    columns = -(-len(rules.names) // OBJECT_ROWS)
    axes.set(xlim=(-0.05, columns), ylim=(OBJECT_ROWS - 0.4, -0.6))
    axes.set_title("objects", fontsize=11)
    viz.bare(axes)


def _draw_candidates(axes: Axes, table: pd.DataFrame) -> None:
    axes.barh(range(len(table)), table["pi_hat"], color=viz.method_color("q_sft"), height=0.3)
    for row, line in enumerate(table.itertuples()):
        text = textwrap.shorten(line.text, 36)
        axes.text(0.01, row - 0.33, text, va="center", fontsize=9)
        q = getattr(line, "Q_task", line.Q)
        numbers = f"{line.pi_hat:.2f}   Q {q:.2f}, π {line.pi:.2f}, {line.bits:.2f} bits"
        axes.text(0.01, row + 0.28, numbers, va="center", fontsize=8, color="#666666")
    axes.set(xlim=(0, 1), ylim=(len(table) - 0.4, -0.6))
    axes.set_title("next: probability by the policy", fontsize=11)
    viz.bare(axes)


def game_explorer(
    policy: QSFTPolicy,
    rules: TwentyQuestionsRules,
    transcripts: Sequence[dict[str, Any]],
    *,
    asked: int = 3,
) -> None:
    """Step through games: a control for the game, and for the turn, the number of questions asked.

    transcripts: rows of a data set, each with text; a game that ends sooner shows its end. asked:
    questions asked at the start. Raises ValueError for no transcripts, or a start that no game has.
    """
    step_through(
        lambda game, turn: draw_game(policy, rules, transcripts[game - 1]["text"], turn),
        {},
        "Left, the questions of a game with their values, answers and the number of objects left; "
        "middle, the objects, those left in bold; right, bars of the next question's candidates.",
        lengths=[len(row["text"]) // 2 for row in transcripts],
        turn=asked,
        first=0,
    )


def answer_explorer(policy: QSFTPolicy, rules: TwentyQuestionsRules) -> None:
    """Have one of the objects in mind, and answer the policy's questions.

    Controls: buttons for yes and no, to take the last answer back, and to start again. Each
    question is the policy's likeliest one. It is said when no object fits all answers.
    """
    texts: list[str] = [START]
    next_questions = functools.cache(functools.partial(_next_questions, policy, rules))
    buttons = ("yes", "no", "take back", "start again")
    controls = {name.replace(" ", "_"): command(name) for name in buttons}

    def draw(yes: bool, no: bool, take_back: bool, start_again: bool) -> Figure:
        for button in controls.values():
            button.value = False
        table, end = next_questions("".join(texts))
        if (yes or no) and not end:
            texts.extend([table["text"][0] + "\n", YES if yes else NO])
        elif take_back:
            del texts[max(1, len(texts) - 2) :]
        elif start_again:
            del texts[1:]
        table, end = next_questions("".join(texts))
        note = end or f"Question {1 + len(texts) // 2}: {table['text'][0]} Answer yes or no."
        if not _fits_all(rules, texts):
            note += " (No object fits all answers; those in bold fit most of them.)"
        return draw_game(policy, rules, texts, table=table, note=note)

    show_explorer(
        draw,
        controls,
        "Left, the policy's questions with one's answers; middle, the objects, those in bold that "
        "fit all answers; right, bars of the next question's candidates.",
    )


def ask_explorer(policy: QSFTPolicy, rules: TwentyQuestionsRules, *, game: int = 1) -> None:
    """Ask for a hidden object oneself, and see what the policy thinks of one's questions.

    Controls: the number of the game, which stands for an object; a question, one of the list or
    typed in one's own words; and a button to take the last one back. Below stands the value of the
    last question, and what the policy would have asked. Raises ValueError for a game that is not in
    1 .. number of objects.
    """
    texts: list[str] = [START]
    asked_in = game
    next_questions = functools.cache(functools.partial(_next_questions, policy, rules))
    questions = [text.strip() for text in rules.question_texts]
    controls = {
        "game": choice("game", "game", game, range(1, len(rules.names) + 1)),
        "question": choice("question", "question", CHOOSE, [CHOOSE, *questions]),
        "typed": text_box("or type it", placeholder=questions[0]),
        "back": command("take back"),
    }

    def draw(game: int, question: str, typed: str, back: bool) -> Figure:
        nonlocal asked_in
        controls["question"].value = CHOOSE
        controls["typed"].value, controls["back"].value = "", False
        if game != asked_in:
            asked_in = game
            del texts[1:]
        if back:
            del texts[max(1, len(texts) - 2) :]
        said = typed.strip() or ("" if question == CHOOSE else question)
        table, end = next_questions("".join(texts))
        note = end
        if said and not back and not end:
            number = rules.read_question(said)
            if number == UNKNOWN:
                note = f"{brief(said)} is not understood: the game would count it and answer no. "
                note += "Here it is not counted: ask another way, or choose from the list."
            else:
                yes = rules.table[number, (7 * game) % len(rules.names)]  # not in their order
                texts.extend([rules.question_texts[number], YES if yes else NO])
                note = _thought_of(table, number)
                table, end = next_questions("".join(texts))
        return draw_game(policy, rules, texts, table=table, note=f"{note} {end}".strip())

    show_explorer(
        draw,
        controls,
        "Left, one's own questions with the policy's values and the answers; middle, the objects, "
        "those left in bold; right, bars of what the policy would ask next.",
    )


def _next_questions(
    policy: QSFTPolicy, rules: TwentyQuestionsRules, history: str
) -> tuple[pd.DataFrame | None, str]:
    """`question_table` after a history; or None, and why the game does not go on."""
    turns = rules.read_history(history)
    if turns and turns[-1][1] and rules.is_guess(turns[-1][0]):
        return None, f"Found with {len(turns)} question{'s' * (len(turns) > 1)}."
    if len(turns) == TURNS:
        return None, f"All {TURNS} questions are asked: the game is over."
    return question_table(policy, rules, history), ""


def _fits_all(rules: TwentyQuestionsRules, texts: Sequence[str]) -> bool:
    """Whether an object explains all answers; `consistent` are those that explain the most."""
    turns = rules.read_history("".join(texts))
    candidate = int(rules.consistent(turns).argmax())
    return all(rules.table[question, candidate] == yes for question, yes in turns)


def _thought_of(table: pd.DataFrame, question: int) -> str:
    """What the policy thinks of a question, and which it would have asked."""
    told = "Q_task" if "Q_task" in table else "Q"
    own, best = table[table["question"] == question].iloc[0], table.iloc[0]
    place = 1 + int((table[told] > own[told]).sum())
    text = (
        f"{own['text']} Q {own[told]:.3f}, place {place} of {len(table)}, {own['bits']:.2f} bits. "
    )
    if own["question"] == best["question"]:
        return text + "The policy would have asked the same."
    return (
        f"{text}The policy would have asked: {best['text']} Q {best[told]:.3f}, "
        f"{best['bits']:.2f} bits."
    )
