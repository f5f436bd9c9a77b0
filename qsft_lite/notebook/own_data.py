"""What the template for one's own data looks at before it trains, and what it says after.

Everything that can be known is known before training, and said in the template's own names: those
of the parameters in its first cells (``STOP``, ``RETURN_LOW``, ...).
"""

from __future__ import annotations

import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, compress
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import pandas as pd
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from qsft_lite import models
from qsft_lite.data import RewardScale, load_trajectories
from qsft_lite.data.formats import CHATS, form_of, read_records
from qsft_lite.data.transcripts import Reader, Segment, cut
from qsft_lite.loss import BACKUPS, SCORES
from qsft_lite.notebook import user_path
from qsft_lite.policy import QSFTPolicy
from qsft_lite.policy.q_sft import SETTINGS
from qsft_lite.trainer.config import LEFTOVERS

# Parameters


def _number(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and low <= value <= high


def _whole(value: Any) -> bool:
    return type(value) is int and value >= 1


_ABOVE_0 = math.ulp(0.0)  # the least number above 0
_CHOICES: dict[str, Sequence[Any]] = {
    "REWARD_PLACE": ("step", "end", None),
    "DISCOUNT": ("turn", "token"),
    "TOKENS": ("words", "characters"),
    "LEFTOVER": LEFTOVERS,
    "BACKUP": BACKUPS,
    "SCORE": SCORES,
}
_NAMES_BY_RULE: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    ("REWARD RETURN_LOW RETURN_HIGH", "a number, or None", lambda v: v is None or _number(v)),
    ("GAMMA SUPPORT PLAY_SUPPORT", "a number from 0 to 1", lambda v: _number(v, 0, 1)),
    ("TARGET_RATE", "a number above 0 and at most 1", lambda v: _number(v, _ABOVE_0, 1)),
    ("LEARNING_RATE", "a number above 0, or None", lambda v: v is None or _number(v, _ABOVE_0)),
    ("BETA", "a number of at least 0", lambda v: _number(v, 0)),
    (
        "BETAS",
        "a list of numbers of at least 0",
        lambda v: isinstance(v, list) and v and all(_number(beta, 0) for beta in v),
    ),
    (
        "BEHAVIOR_STEPS VALUE_STEPS BATCH_ROWS ROW_TOKENS MAX_TOKENS",
        "a whole number of at least 1, or None",
        lambda v: v is None or _whole(v),
    ),
    ("ACCUMULATE", "a whole number of at least 1", _whole),
    ("STOP", "a text that is not empty", lambda v: isinstance(v, str) and v != ""),
    ("HELD_OUT", "a share between 0 and 0.5", lambda v: type(v) is float and 0 < v < 0.5),
)
_RULES = {
    **{name: (wanted, good) for names, wanted, good in _NAMES_BY_RULE for name in names.split()},
    **{
        name: (f"one of {', '.join(map(repr, choices))}", choices.__contains__)
        for name, choices in _CHOICES.items()
    },
}


def check_parameters(given: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the parameter, for a value with which no run could end well.

    Args:
        given: the template's parameters by name; other names, as in ``globals()``, do not matter.
    """
    for name, (wanted, good) in _RULES.items():
        if not good(given[name]):
            raise ValueError(f"{name} must be {wanted}, not {given[name]!r}")
    low, high = given["RETURN_LOW"], given["RETURN_HIGH"]
    if None not in (low, high) and low >= high:
        raise ValueError(f"RETURN_LOW={low} must be below RETURN_HIGH={high}")
    if given["BACKUP"] == "behavior" and given["LEFTOVER"] == "uniform":
        raise ValueError(
            "BACKUP='behavior' needs LEFTOVER='dummy': by Eq. 3 that value is always 1. The "
            "paper's is BACKUP='max'"
        )
    if "\\n" in given["STOP"]:
        raise ValueError(
            f"STOP={given['STOP']!r} has a backslash and an n where a newline may be meant: on a "
            "command line, write -p STOP '\"\\n\"'"
        )


# Places


def load_model(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """``models.load_model`` of a folder, as ``user_path`` finds it, or else of a hub's id.

    Raises OSError, with the folder that was looked for.
    """
    folder = user_path(name)
    try:
        return models.load_model(folder if folder.is_dir() else name)
    except OSError as error:
        raise OSError(f"MODEL: {error} As a folder, it was looked for at {folder}.") from error


def check_output(folder: Path) -> None:
    """Raise ValueError where no policy can be saved as ``folder/policy``; make the folder."""
    policy = folder / "policy"
    if policy.is_dir() and any(policy.iterdir()) and not (policy / SETTINGS).exists():
        raise ValueError(f"OUTPUT: {policy} holds something that is not a policy: name another")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"OUTPUT: nothing can be written in {folder} ({error})") from error


def check_disk(folder: Path, model: PreTrainedModel, checkpoints: bool) -> None:
    """Raise ValueError where the disk of ``folder`` has no room for what will be written there.

    A parameter takes 4 bytes: finished weights of both stages and the policy come to 6 of them.
    Of checkpoints, three can be there at once: of stage two with p, its target, pi and two moments.
    """
    parameters = model.num_parameters()
    needed = 4 * parameters * (6 + (3 * 5 if checkpoints else 0))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(
            f"OUTPUT: {folder} has {free / 2**20:,.0f} MiB free, and {needed / 2**20:,.0f} MiB are "
            f"needed for {parameters:,} parameters: make room, or name another folder"
        )


# Data


def load_episodes(
    path: str | os.PathLike, reward: float | None, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[Dataset, bool]:
    """The episodes of ``data.load_trajectories``, and whether MODEL's chat template wrote them.

    Raises ValueError for a record that is none, or chats and others together.
    """
    if tokenizer is not None and not tokenizer.chat_template:
        tokenizer = None
    episodes = load_trajectories(path, reward=reward, tokenizer=tokenizer)
    files = episodes.info.download_checksums
    forms = {form_of(record) for file in files for _, record in read_records(file)}
    if tokenizer is None or not forms & CHATS:
        return episodes, False
    if forms - CHATS:
        raise ValueError(
            f"{path} has chats, which MODEL's chat template writes, and other episodes "
            f"({', '.join(sorted(forms - CHATS))}), which it does not: keep them apart"
        )
    return episodes, True


def check_actions(episodes: Dataset, stop: str, path: str | os.PathLike) -> set[str]:
    """The texts of all actions; ValueError for one that has STOP not just at its end."""
    actions: set[str] = set()
    for number, episode in enumerate(episodes, 1):
        for text in dict.fromkeys(compress(episode["text"], episode["is_action"])):
            where = f"{path}, episode {number}: the action {_short(text)}"
            if not text.endswith(stop):
                raise ValueError(
                    f"{where} does not end with STOP={stop!r}: choose STOP, or end every action "
                    "with it"
                )
            if text not in actions and cut(text, [stop]) != [text]:
                raise ValueError(
                    f"{where} has STOP={stop!r} before its end, too, and the policy would stop "
                    "there: choose a STOP that only ends actions, or change what they hold"
                )
            actions.add(text)
    return actions


def longest_action(actions: Iterable[str], tokenizer: PreTrainedTokenizerBase, chat: bool) -> int:
    """The most tokens that an action has."""
    return max(map(len, Reader(tokenizer, chat).read([(text, True) for text in actions])))


def _short(text: str) -> str:
    shown = repr(text)
    return shown if len(shown) <= 80 else f"{shown[:60]} ... {shown[-17:]}"


def reward_scale(
    episodes: Dataset,
    low: float | None,
    high: float | None,
    place: Literal["step", "end"] | None,
    path: str | os.PathLike,
) -> RewardScale:
    """How rewards come to [0, 1], from RETURN_LOW, RETURN_HIGH and REWARD_PLACE.

    Where a bound is None, it is that of the data. A place of None becomes "end" where every episode
    is done and "step" could fail: rewards below 0, or no return as low as 0. Then what is earned up
    to some action, or from there on, may lie outside the range of whole episodes. What does not fit
    this scale, ``data.encode`` refuses.

    Raises ValueError where all returns are alike.
    """
    returns = [math.fsum(rewards) for rewards in episodes["reward"]]
    low = min(returns) if low is None else low
    high = max(returns) if high is None else high
    if low >= high:
        raise ValueError(
            f"{path}: all returns lie at or between RETURN_LOW={low:g} and RETURN_HIGH={high:g}, "
            "so there is nothing to learn from: set these two to what is possible"
        )
    if place is None:
        may_fail = low > 0 or any(reward < 0 for reward in chain(*episodes["reward"]))
        place = "end" if may_fail and all(episodes["done"]) else "step"
    return RewardScale(float(low), float(high), place=place)


_WORDS = {
    r"outside \[0, 1\] by (?=RewardScale)": "outside ",
    r"RewardScale\(low=(.*?), high=(.*?), place=('\w+')\)": (
        r"RETURN_LOW=\1, RETURN_HIGH=\2, REWARD_PLACE=\3"
    ),
    r"\bplace='end'": "REWARD_PLACE='end' (and episodes that are all done)",
    r"\bplace='step'": "REWARD_PLACE='step'",
    r"\blow and high\b": "RETURN_LOW and RETURN_HIGH",
    r"\bgamma < 1": "GAMMA below 1",
    r"pass reward=": "set REWARD",
    r"pass tokenizer=, the model's": "set MODEL to a model that has one",
    r", or load with on_bad='skip'": "",
    r"No token of .* the stop text ('.*'), nor do .* of them": (
        r"STOP=\1 is not what the tokenizer makes of it: choose another STOP"
    ),
}


@contextmanager
def own_words() -> Iterator[None]:
    """A ValueError of the package, said in the template's names."""
    try:
        yield
    except ValueError as error:
        text = str(error)
        for theirs, ours in _WORDS.items():
            text = re.sub(theirs, ours, text)
        raise ValueError(text) from error


def check_lengths(
    sizes: Sequence[int], limit: int, max_tokens: int | None, held_out: float
) -> None:
    """Raise ValueError where too few of the episodes, of these sizes in tokens, are short enough.

    Where MAX_TOKENS is None, none may be skipped: then one above the limit is refused as well.
    """
    kept = sum(size <= limit for size in sizes)
    if not kept:
        raise ValueError(
            f"no episode has at most {limit} tokens (MAX_TOKENS={max_tokens}); the shortest has "
            f"{min(sizes)}"
        )
    if max_tokens is None and kept < len(sizes):
        raise ValueError(
            f"{len(sizes) - kept} of {len(sizes)} episodes have more tokens than the model's "
            f"context of {limit}, the longest {max(sizes)}: shorten them, or skip them with "
            f"MAX_TOKENS={limit}"
        )
    if round(held_out * kept) < 1 or kept - 2 * round(held_out * kept) < 1:
        raise ValueError(
            f"{kept} episodes are too few for HELD_OUT={held_out}: validation and test need at "
            "least one each, and training the rest"
        )


# The policy


def mean_opinion(
    policy: QSFTPolicy, histories: Sequence[Sequence[Segment]], actions: Sequence[str]
) -> dict[str, float | None]:
    """Mean ``Q`` and ``log_pi`` of the action after each history; None where there is none.

    Texts that the tokenizer cannot read are left out: one of words may join two that it knows.
    """
    ids = Reader(policy.tokenizer, policy.chat_template).ids([(text, True) for text in actions])
    tables = [
        policy.candidates(history, [action])
        for history, action, known in zip(histories, actions, ids, strict=True)
        if known
    ]
    if not tables:
        return {"Q": None, "log_pi": None}
    return pd.concat(tables)[["Q", "log_pi"]].mean().to_dict()


# The verdict


def verdict(
    *,
    behavior_losses: Sequence[float],
    epochs: tuple[float, float],
    ratio: float,
    target: float,
    mean_return: float,
    familiar: float,
    new_tokens: float,
    calibration_error: float | None,
) -> list[dict[str, str]]:
    """What went well and what did not yet, as rows of ``verdict``, ``question`` and ``found``.

    The thresholds are rules of thumb of ours.

    Args:
        behavior_losses: of stage one on the validation data, in order.
        epochs: how often each stage saw an episode, on average.
        ratio: the median of p/pi at the actions of test episodes.
        target: mean target at the end of stage two.
        mean_return: mean scaled return that followed, at the actions of test episodes.
        familiar: share of the actions it writes that are in the data.
        new_tokens: share of test episodes with a token that training never saw.
        calibration_error: mean distance of values and returns; None where they may differ.
    """
    fall = behavior_losses[0] - min(behavior_losses)
    before = behavior_losses[2 * len(behavior_losses) // 3 - 1]
    late = (before - min(behavior_losses)) / fall if fall > 0 else 0.0
    checks = [
        (
            "is stage one fitted?",
            late <= 0.02,
            f"its last third brought {max(late, 0):.0%} of the fall of the loss",
            "more BEHAVIOR_STEPS",
        ),
        (
            "was every episode seen?",
            min(epochs) >= 1,
            f"{epochs[0]:.2g} times in stage one, {epochs[1]:.2g} times in stage two",
            "more BEHAVIOR_STEPS, VALUE_STEPS or BATCH_ROWS",
        ),
        (
            "do p and pi fit the same data?",
            ratio <= 1.1,
            f"the median of p/pi is {ratio:.2f}, where values are at most 1",
            "more data, fewer VALUE_STEPS, or TRAIN_BEHAVIOR = True",
        ),
        (
            "have the values left their start?",
            target <= max(0.9, mean_return + 0.1),
            f"the mean target is {target:.2f}, the mean return that followed {mean_return:.2f}",
            "more VALUE_STEPS, a larger TARGET_RATE, or BACKUP = 'behavior'",
        ),
        (
            "does it write actions of the data?",
            familiar >= 0.9,
            f"{familiar:.0%} of those it wrote are in the data",
            "a smaller BETA, a larger PLAY_SUPPORT, more BEHAVIOR_STEPS, or a list of actions",
        ),
        (
            "does it know the words of new episodes?",
            new_tokens <= 0.01,
            f"{new_tokens:.0%} of the test episodes have a token that training never saw",
            "TOKENS = 'characters', a pretrained MODEL, or more data",
        ),
    ]
    if calibration_error is not None:
        question, good = "do values match the returns?", calibration_error <= 0.1
        found = f"they are {calibration_error:.2f} apart on average"
        remedy = "look at stage one first, then more VALUE_STEPS or data"
        checks.append((question, good, found, remedy))
    return [
        {
            "verdict": "OK" if good else "NOT YET",
            "question": question,
            "found": found if good else f"{found}: {remedy}",
        }
        for question, good, found, remedy in checks
    ]


def told(rows: list[dict[str, str]]) -> str:
    """The verdict as lines of text."""
    return "\n".join(f"{row['verdict']:<9}{row['question']} {row['found']}" for row in rows)


def share_with_new_tokens(train: Dataset, test: Dataset) -> float:
    """Share of test episodes with a token that is in no training episode; both as encoded."""
    known = set(chain.from_iterable(train["input_ids"]))
    return fmean(not known.issuperset(ids) for ids in test["input_ids"])
