"""Wordle beside a policy: its candidates as bars, and its values over a transcript."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from reprlib import repr as brief
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qsft_lite import viz
from qsft_lite.policy import QSFTPolicy
from qsft_lite.tasks.wordle.rules import FEEDBACK, SOLVED, START, TRIES, WordleRules
from qsft_lite.tasks.wordle.text import read, read_colors
from qsft_lite.viz.explorers import choice, show_explorer, text_box, write_below
from qsft_lite.viz.plots import VALUE_COLORS, ink, value_bar

TILES = {"b": "#787c7e", "y": "#c9a227", "g": "#3f8f4f"}
POLICYS_CHOICE = "(the policy's)"
NOT_YET = "(not yet)"
BARS = 8  # candidates shown
# What a column of QSFTPolicy.values is called.
QUANTITIES = {"Q": "Q", "ratio": "Q = p/π", "pi": "π", "p": "p", "V": "V"}


def history_of(rules: WordleRules, secret: str, guesses: Sequence[str]) -> str:
    """The transcript of these guesses, with the feedback to each.

    Raises ValueError for a word outside the list, or for more guesses than the game has.
    """
    return START + "".join(text for turn in _turns(rules, secret, guesses) for text in turn)


def candidate_table(policy: QSFTPolicy, rules: WordleRules, history: str) -> pd.DataFrame:
    """What the policy thinks of every word of the list after a history, the best first.

    A row has ``word``; ``pi``, ``Q`` and ``pi_hat``, in [0, 1]; of a policy with a scale also
    ``Q_task``, in the task's own units; and whether the word is ``consistent`` with the feedback so
    far.
    """
    found = policy.candidates(history, rules.guess_texts)
    table = pd.DataFrame(
        {
            "word": rules.words,
            "pi": np.exp(found["log_pi"]),
            **{name: found[name] for name in ("Q", "Q_task") if name in found},
            "pi_hat": np.exp(found["log_pi_hat"]),
            "consistent": rules.consistent(rules.read_history(history)),
        }
    )
    return table.sort_values("pi_hat", ascending=False, kind="stable", ignore_index=True)


def policy_guesses(
    policy: QSFTPolicy, rules: WordleRules, secret: str, guesses: Sequence[str] = ()
) -> list[str]:
    """The given guesses and then the policy's likeliest ones, to the end of the game."""
    guesses = list(guesses)
    while not _is_over(secret, guesses):
        guesses.append(_best_guess(policy, rules, secret, guesses))
    return guesses


def _best_guess(policy: QSFTPolicy, rules: WordleRules, secret: str, guesses: Sequence[str]) -> str:
    return candidate_table(policy, rules, history_of(rules, secret, guesses))["word"][0]


def _thought_of(policy: QSFTPolicy, rules: WordleRules, secret: str, guesses: Sequence[str]) -> str:
    """What the policy thinks of the last of these guesses, and what it would have guessed."""
    table = candidate_table(policy, rules, history_of(rules, secret, guesses[:-1]))
    told = "Q_task" if "Q_task" in table else "Q"
    values = table.set_index("word")[told]
    own, best = guesses[-1], table["word"][0]
    place = 1 + int((values > values[own]).sum())
    text = f"Guess {len(guesses)}, {own}: Q {values[own]:.3f}, place {place} of {len(table)}. "
    if own == best:
        return text + "The policy would have guessed the same."
    return text + f"The policy would have guessed {best}: Q {values[best]:.3f}."


def _turns(rules: WordleRules, secret: str, guesses: Sequence[str]) -> list[tuple[str, str]]:
    if len(guesses) > TRIES:
        raise ValueError(f"a game has {TRIES} guesses, got {len(guesses)}")
    answer = rules.secret_index(secret)
    rows = [rules.secret_index(guess) for guess in guesses]
    return [(rules.guess_texts[i], rules.answer_text(i, rules.table[i, answer])) for i in rows]


def read_own_game(
    rules: WordleRules, secret: str, guesses: str
) -> tuple[list[tuple[int, int]], str]:
    """What a reader has typed, as turns as far as it is right, and what is wrong after them.

    guesses: words between commas, each with its feedback behind it, as in "crane bygbb", or without
    one where there is a secret. Returns (guess, feedback) pairs, and a sentence, "" where all is
    right.
    """
    secret, turns = secret.strip().lower(), []
    if secret and secret not in rules.index:
        return [], _unknown(rules, secret)
    for piece in filter(None, map(str.split, re.split("[,;]", guesses.lower()))):
        word, colors = piece[0], "".join(piece[1:])
        if len(turns) == TRIES or (turns and turns[-1][1] == SOLVED):
            return turns, "The game is over: what follows is left out."
        if word not in rules.index:
            return turns, _unknown(rules, word)
        guess, feedback = rules.index[word], None
        if secret:
            feedback = int(rules.table[guess, rules.index[secret]])
        if colors and colors not in FEEDBACK:
            return turns, (
                f"{brief(colors)} is no feedback: five letters, each b (not in the secret), y "
                "(elsewhere in it) or g (in its place)."
            )
        if colors and feedback not in (None, FEEDBACK.index(colors)):
            return (
                turns,
                f"With the secret {secret}, {word} gets {FEEDBACK[feedback]}, not {colors}.",
            )
        if not colors and feedback is None:
            return turns, f"Type a secret, or the feedback behind the guess: {word} bygbb."
        turn = guess, FEEDBACK.index(colors) if colors else feedback
        if not rules.consistent([*turns, turn]).any():
            return turns, f"No word of the list gives {colors} to {word} after what is before it."
        turns.append(turn)
    return turns, ""


def _unknown(rules: WordleRules, word: str) -> str:
    close = ", ".join(difflib.get_close_matches(word, rules.words))
    some = close or ", ".join(rules.words[:3])
    text = f"{brief(word)} is not among the {len(rules.words)} words of this game; "
    return text + ("close to it: " if close else "some of them: ") + f"{some}."


def _is_over(secret: str, guesses: Sequence[str]) -> bool:
    return len(guesses) >= TRIES or secret in guesses


def draw_candidates(
    policy: QSFTPolicy,
    rules: WordleRules,
    secret: str,
    guesses: Sequence[str],
    *,
    against: bool = False,
    note: str = "",
) -> Figure:
    """The board so far, and pi, Q and pi_hat of the likeliest next guesses of a policy with values.

    The secret is shown only when the game is over. against: show beside it the policy's own game
    for the same secret, its letters hidden until then. note: a text below all.

    Raises ValueError for a word outside the list, or more than 6 guesses.
    """
    turns = _turns(rules, secret, guesses)
    over = _is_over(secret, guesses)
    with viz.figure((11, 4.2)) as figure:
        boards = 2 if against else 1
        grid = figure.add_gridspec(1, boards + 3, width_ratios=[1.15] * boards + [1.0] * 3)
        board = figure.add_subplot(grid[0])
        _draw_board(board, turns, letters=True)
        board.set_title("this game" if against else "the game")
        if against:
            rival_axes = figure.add_subplot(grid[1])
            rival = policy_guesses(policy, rules, secret)
            _draw_board(rival_axes, _turns(rules, secret, rival), letters=over)
            rival_axes.set_title("the policy's")
        bars = [figure.add_subplot(grid[boards + i]) for i in range(3)]
        if over:
            found = "Found" if secret in guesses else "Not found"
            figure.suptitle(f"{found}: the word was {secret}", fontsize=13)
            for axes in bars:
                axes.axis("off")
        else:
            table = candidate_table(policy, rules, history_of(rules, secret, guesses))
            _draw_bars(bars, table.head(BARS), "Q" if policy.score == "paired" else "Q = p/π")
            left = int(table["consistent"].sum())
            figure.suptitle(
                f"Guess {len(guesses) + 1}: {left} of {len(table)} words are consistent "
                "with the feedback (*)",
                fontsize=13,
            )
        write_below(figure, note)
    return figure


def quantities(policy: QSFTPolicy) -> dict[str, str]:
    """The columns of `QSFTPolicy.values` to show of this policy, with their names, Q first."""
    if policy.score == "paired":
        columns = ["Q", "pi", "V"]
    else:
        columns = ["ratio", "pi", "p"] + ["V"] * (policy.dummy is not None)
    return {column: QUANTITIES[column] for column in columns}


def draw_token_values(
    policy: QSFTPolicy,
    segments: Sequence[tuple[str, bool]],
    *,
    quantity: str | None = None,
    note: str = "",
) -> Figure:
    """A transcript as rows of tokens, one row a line, its action tokens colored by their value.

    segments: texts and whether each is an action; tokens of the environment stay white, as values
    are trained on actions only. quantity: a column of `QSFTPolicy.values`, "Q", "V" or "pi" of a
    paired policy, and "ratio", "p", "pi" or "V" of the older forms; None for the value, Q or ratio.
    Q and V of a policy with a scale are told in the task's own units. note: a text below.

    Raises ValueError for a quantity that this policy does not have.
    """
    labels = quantities(policy)
    quantity = next(iter(labels)) if quantity is None else quantity
    if quantity not in labels:
        raise ValueError(f"quantity must be one of {', '.join(labels)}, got {quantity!r}")
    values = policy.values(segments)
    label, told, limits = labels[quantity], quantity, (0.0, 1.0)
    if f"{quantity}_task" in values:
        label, told = f"{label} in the task's units", f"{quantity}_task"
        limits = policy.scale.low, policy.scale.high
    is_end = values["token"].str.endswith("\n")
    lines = [line for _, line in values.groupby(is_end.shift(fill_value=False).cumsum())]
    longest = max(map(len, lines))
    with viz.figure((3.6 + 1.1 * longest, 1.3 + 0.38 * len(lines))) as figure:
        axes = figure.subplots()
        for row, line in enumerate(lines):
            for column, (_, token) in enumerate(line.iterrows()):
                _draw_token(axes, column, row, token, told, limits)
        axes.set(xlim=(-0.5, longest - 0.5), ylim=(len(lines) - 0.5, -0.5))
        axes.set_title(f"{label}, of each action token", fontsize=12)
        viz.bare(axes)
        value_bar(figure, axes, label, limits)
        write_below(figure, note)
    return figure


def _draw_token(
    axes: Axes,
    column: int,
    row: int,
    token: pd.Series,
    quantity: str,
    limits: tuple[float, float],
) -> None:
    value, is_action = token[quantity], bool(token["is_action"])
    text = token["token"].replace("\n", "⏎")
    fill, color = "white", "#666666"
    if is_action:
        fill, color = VALUE_COLORS(plt.Normalize(*limits, clip=True)(value)), ink(value, limits)
        text = f"{text}  {value:.2f}"
    box = plt.Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=fill, edgecolor="white", lw=2)
    axes.add_patch(box)
    axes.text(column, row, text, ha="center", va="center", color=color, fontsize=10)


def _draw_board(axes: Axes, turns: Sequence[tuple[str, str]], *, letters: bool) -> None:
    for row in range(TRIES):
        for column in range(5):
            fill, letter = "white", ""
            if row < len(turns):
                guess, colors = read(turns[row][0]), read_colors(turns[row][1])
                fill = TILES[colors[column]]
                letter = guess[column].upper() if letters else ""
            tile = plt.Rectangle((column, row), 0.92, 0.92, facecolor=fill, edgecolor="#bbbbbb")
            axes.add_patch(tile)
            center = column + 0.46, row + 0.48
            axes.text(*center, letter, ha="center", va="center", color="white", weight="bold")
    axes.set(xlim=(-0.1, 5), ylim=(TRIES, -0.1), aspect="equal")
    viz.bare(axes)


def _draw_bars(all_axes: Sequence[Axes], table: pd.DataFrame, value_name: str) -> None:
    """Bars of probabilities and values from 0 to 1; where they are known, values in task units."""
    names = [word + (" *" if fits else "") for word, fits in table[["word", "consistent"]].values]
    told = "Q_task" if "Q_task" in table else "Q"
    if told == "Q_task":
        value_name += " in the task's units"
    panels = (
        ("pi", "pi", "π, the prior", viz.method_color("bc")),
        ("Q", told, value_name, VALUE_COLORS(0.35)),
        ("pi_hat", "pi_hat", "π̂, what is played", viz.method_color("q_sft")),
    )
    for axes, (column, number, title, color) in zip(all_axes, panels, strict=True):
        axes.barh(range(len(table)), table[column], color=color)
        for row, (length, value) in enumerate(zip(table[column], table[number], strict=True)):
            axes.text(length, row, f" {value:.2f}", va="center", fontsize=10)
        axes.set_yticks(range(len(table)), names if column == "pi" else [])
        axes.set(ylim=(len(table) - 0.4, -0.6), xticks=[], title=title)
        axes.set_xlim(0, 1.3 * max(table[column].max(), 0.05))
        axes.grid(False)
        axes.spines["bottom"].set_visible(False)


def play_explorer(policy: QSFTPolicy, rules: WordleRules, *, game: int = 1, begun: int = 0) -> None:
    """Play Wordle with the policy or against it, and see its candidates before each guess.

    Controls: the number of the game, which stands for a secret; each of the six guesses, a word or
    the policy's own; a box to type the next guess; and whether the policy's own game is shown
    beside. Below stands what the policy thinks of the last guess, and what it would have guessed.
    begun: at the start, the policy has made so many guesses of its own.

    Raises ValueError for a game that is not in 1 .. number of words.
    """
    words = rules.words
    guesses = (NOT_YET, POLICYS_CHOICE, *words)
    controls: dict[str, Any] = {
        "game": choice("game", "game", game, range(1, len(words) + 1)),
        "against": choice(
            "against", "policy's game", False, [("hide", False), ("show (a race)", True)]
        ),
    }
    for turn in range(1, TRIES + 1):
        first = POLICYS_CHOICE if turn <= begun else NOT_YET
        controls[f"guess_{turn}"] = choice("guess", f"guess {turn}", first, guesses)
    controls["typed"] = text_box("or type the next", placeholder=words[0])

    def draw(game: int, against: bool, typed: str, **chosen: str) -> Figure:
        note = ""
        if typed.strip():
            controls["typed"].value = ""
            chosen, note = type_guess(chosen, typed.strip().lower())
        secret = words[(7 * game) % len(words)]  # not in the order of the list
        played: list[str] = []
        for guess in chosen.values():
            if guess == NOT_YET or _is_over(secret, played):
                break
            if guess == POLICYS_CHOICE:
                guess = _best_guess(policy, rules, secret, played)
            played.append(guess)
        if played and not note:
            note = _thought_of(policy, rules, secret, played)
        return draw_candidates(policy, rules, secret, played, against=against, note=note)

    def type_guess(chosen: dict[str, str], word: str) -> tuple[dict[str, str], str]:
        """The guesses with this one in the first free place, and what is wrong with it."""
        if word not in rules.index:
            return chosen, _unknown(rules, word)
        free = next((name for name, guess in chosen.items() if guess == NOT_YET), None)
        if free is None:
            return chosen, f"All {TRIES} guesses are made: set one of them back to {NOT_YET}."
        controls[free].value = word
        return chosen | {free: word}, ""

    show_explorer(
        draw,
        controls,
        "Left, the board of a game of Wordle; right, bars of the prior pi, the value Q and the "
        "policy pi_hat of the likeliest next guesses.",
    )


def token_explorer(
    policy: QSFTPolicy, transcripts: Sequence[dict[str, Any]], *, quantity: str | None = None
) -> None:
    """Show the token values of transcripts, with controls for which one and which quantity.

    transcripts: rows of a data set, each with text and is_action. quantity: see
    `draw_token_values`; those that the policy has are on offer. Raises ValueError for no
    transcripts, or an unknown quantity.
    """
    if not transcripts:
        raise ValueError("token_explorer needs at least one transcript")
    offered = range(1, len(transcripts) + 1)
    columns = [(label, column) for column, label in quantities(policy).items()]
    quantity = columns[0][1] if quantity is None else quantity
    controls = {
        "transcript": choice("transcript", "transcript", 1, offered, ipywidgets.SelectionSlider),
        "quantity": choice("quantity", "color", quantity, columns),
    }

    def draw(transcript: int, quantity: str) -> Figure:
        row = transcripts[transcript - 1]
        segments = list(zip(row["text"], row["is_action"], strict=True))
        return draw_token_values(policy, segments, quantity=quantity)

    show_explorer(
        draw,
        controls,
        "A transcript as rows of tokens; the agent's tokens are colored by the policy's value.",
    )


def own_transcript_explorer(
    policy: QSFTPolicy,
    rules: WordleRules,
    *,
    secret: str | None = None,
    guesses: str | None = None,
    quantity: str | None = None,
) -> None:
    """Show the token values of a game that the reader types; see `read_own_game` for how.

    Controls: a box for the secret, which may stay empty; one for the guesses; and which quantity,
    see `draw_token_values`. What is right so far is shown, with a sentence on what is wrong.
    secret, guesses, quantity: at the start; the last and the first two words of the list if None.

    Raises ValueError for an unknown quantity.
    """
    secret = rules.words[-1] if secret is None else secret
    guesses = ", ".join(rules.words[:2]) if guesses is None else guesses
    columns = [(label, column) for column, label in quantities(policy).items()]
    quantity = columns[0][1] if quantity is None else quantity
    controls = {
        "secret": text_box("secret", secret, "may stay empty"),
        "guesses": text_box("guesses", guesses, f"{rules.words[0]} bygbb, {rules.words[1]}"),
        "quantity": choice("quantity", "color", quantity, columns),
    }

    def draw(secret: str, guesses: str, quantity: str) -> Figure:
        turns, problem = read_own_game(rules, secret, guesses)
        segments = [(START, False)]
        for guess, feedback in turns:
            segments += [(rules.guess_texts[guess], True)]
            segments += [(rules.answer_text(guess, feedback), False)]
        return draw_token_values(policy, segments, quantity=quantity, note=problem)

    show_explorer(
        draw,
        controls,
        "A game of one's own as rows of tokens; the guesses are colored by the policy's value.",
    )
