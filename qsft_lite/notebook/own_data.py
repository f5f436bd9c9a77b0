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
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, compress
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np
import pandas as pd
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from qsft_lite import models
from qsft_lite.data import RewardScale, load_trajectories
from qsft_lite.data.formats import CHATS, chat_segments, form_of, read_records
from qsft_lite.data.transcripts import Reader, Segment, cut
from qsft_lite.notebook import user_path
from qsft_lite.policy import QSFTPolicy
from qsft_lite.policy.q_sft import SETTINGS

# Parameters


def _number(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and low <= value <= high


def _whole(value: Any) -> bool:
    return type(value) is int and value >= 1


_ABOVE_0 = math.ulp(0.0)  # the least number above 0
# Whose values they are: those of the policy that made the data, or of a better one.
OF_THE_DATA = ("recorded", "returns", "behavior")
OF_A_BETTER_ONE = ("policy", "support")
_CHOICES: dict[str, Sequence[Any]] = {
    "REWARD_PLACE": ("step", "end", None),
    "DISCOUNT": ("turn", "token"),
    "TOKENS": ("words", "characters"),
    "BACKUP": (*OF_THE_DATA, *OF_A_BETTER_ONE),
}
_NAMES_BY_RULE: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    ("REWARD RETURN_LOW RETURN_HIGH", "a number, or None", lambda v: v is None or _number(v)),
    (
        "GAMMA SUPPORT PLAY_SUPPORT RETURNS_FIRST",
        "a number from 0 to 1",
        lambda v: _number(v, 0, 1),
    ),
    (
        "PRIOR",
        "'returns', or a number between 0 and 1",
        lambda v: v == "returns" or (_number(v) and 0 < v < 1),
    ),
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


# What the models say


def segments(episode: Mapping[str, Any]) -> list[Segment]:
    """The texts of an episode, each with whether it is an action: the tokens depend on it."""
    return list(zip(episode["text"], episode["is_action"], strict=True))


def token_table(
    policy: QSFTPolicy, episode: Mapping[str, Any], encoded: Mapping[str, Any]
) -> pd.DataFrame:
    """``policy.values`` of an episode, one row a token, and ``return``, which followed (scaled).

    A policy without a support may play every token: all are ``in_support`` then.

    Args:
        policy: of score "paired".
        episode: its texts.
        encoded: the same as tokens, from ``data.encode``.
    """
    table = policy.values(segments(episode))
    table["return"] = encoded["return_to_go"][1:]  # token 0 starts the episode
    if policy.relative_support == 0:
        table["in_support"], table["choices"] = True, len(policy.tokenizer)
    return table


def action_tokens(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The action tokens of several episodes as one table, with the number of the ``episode``."""
    table = pd.concat(tables, keys=range(len(tables)), names=["episode", "place"])
    return table[table["is_action"]].reset_index()


def mean_opinion(
    policy: QSFTPolicy, histories: Sequence[Sequence[Segment]], actions: Sequence[str]
) -> dict[str, float | None]:
    """Mean ``Q_task`` and ``log_pi`` of the action after each history; None where there is none.

    Texts that the tokenizer cannot read are left out: one of words may join two that it knows.
    """
    ids = Reader(policy.tokenizer, policy.chat_template).ids([(text, True) for text in actions])
    tables = [
        policy.candidates(history, [action])
        for history, action, known in zip(histories, actions, ids, strict=True)
        if known
    ]
    if not tables:
        return {"Q_task": None, "log_pi": None}
    return pd.concat(tables)[["Q_task", "log_pi"]].mean().to_dict()


# The policy at work

NO_MORE_THAN_A_GUESS = "outside the support: Q is only a guess"


def rank(policy: QSFTPolicy, history: Sequence[Segment], replies: Sequence[str]) -> pd.DataFrame:
    """Candidate replies, the best first, those outside the support last, with a ``note``.

    Args:
        policy: with a scale, so that values are in the task's own units.
        history: the transcript so far.
        replies: whole actions, see ``policy.candidates``, whose columns these are.
    """
    table = policy.candidates(history, replies)
    table["note"] = table["in_support"].map({True: "", False: NO_MORE_THAN_A_GUESS})
    order = ["in_support", "Q_task"]
    return table.sort_values(order, ascending=False, kind="stable", ignore_index=True)


def converse(
    policy: QSFTPolicy, texts: Iterable[str], write: Callable[[str], Any] = print
) -> list[Segment]:
    r"""Let the policy answer each text in turn; the transcript.

    Args:
        policy: of a chat model (``chat_template``), texts are the messages of the user.
        texts: what the world says, as in the data, so perhaps with a newline at its end. A person's
            words are ``(line + "\n" for line in iter(input, ""))``: an empty line ends it.
        write: is given each reply.

    Raises:
        RuntimeError: the policy has said nothing.
        ContextError: the transcript has become longer than the models' context.
        ValueError: a text with words that the tokenizer does not know.
    """
    stops = (policy.stop,) if isinstance(policy.stop, str) else tuple(policy.stop)
    history: list[Segment] = []
    messages: list[dict[str, str]] = []
    for text in texts:
        history.append((text, False))
        if policy.chat_template:
            messages.append({"role": "user", "content": text})
            history = list(chat_segments(messages, policy.tokenizer))
        [reply] = policy.act([history])
        said = reply.removesuffix(max(filter(reply.endswith, stops), key=len, default=""))
        if not said.strip():
            raise RuntimeError(f"The policy said nothing (only {reply!r}) after {text!r:.200}")
        write(reply)
        history.append((reply, True))
        messages.append({"role": "assistant", "content": said})
    return history


# The verdict. Thresholds are rules of thumb of ours; each has its reason beside it.

OK, LOOK = "ok", "look here"
RESAMPLES = 1000  # of the episodes, for 95 % intervals


def verdict(
    held_out: pd.DataFrame,
    train: pd.DataFrame,
    *,
    behavior_losses: Sequence[float],
    clamped: float,
    scale: RewardScale,
    of_the_data: bool,
) -> list[dict[str, str]]:
    """Five checks: rows of ``verdict``, ``question``, ``found``, ``means`` and ``remedy``.

    Args:
        held_out: ``action_tokens`` of episodes that were not trained on.
        train: the same of some that were.
        behavior_losses: of stage one on the validation data, in order.
        clamped: share of the targets that lay outside [0, 1], at the end of stage two.
        scale: how rewards came to [0, 1].
        of_the_data: whether values are those of the policy that made the data, so that they are
            what followed on average; those of a better one may be higher.
    """
    return [
        check_fit(held_out, train, behavior_losses),
        check_outcome(held_out, float(train["return"].mean())),
        check_calibration(held_out, scale, of_the_data),
        check_range(held_out, clamped, of_the_data),
        check_support(held_out),
    ]


def told(rows: Sequence[Mapping[str, str]]) -> str:
    """The verdict as lines of text, with what to do where something has to be done."""
    lines = []
    for number, row in enumerate(rows, 1):
        lines.append(f"{row['verdict']:<11}{number}. {row['question']}")
        notes = [row["found"], row["means"]]
        if row["verdict"] != OK:
            notes.append(f"To do: {row['remedy']}.")
        for note in notes:
            lines += textwrap.wrap(note, 98, initial_indent=" " * 14, subsequent_indent=" " * 14)
    return "\n".join(lines)


def _row(question: str, good: bool, found: str, means: str, remedy: str) -> dict[str, str]:
    row = {"verdict": OK if good else LOOK, "question": question, "found": found}
    return row | {"means": means, "remedy": remedy}


def check_fit(
    held_out: pd.DataFrame, train: pd.DataFrame, behavior_losses: Sequence[float]
) -> dict[str, str]:
    """Is pi fitted? By its cross-entropy, in nats a token.

    It must be no worse than the counts of single tokens (by .02, the size of the noise), which need
    no model. A held-out loss .1 above that of training is a perplexity a tenth higher: learned by
    heart. And where the last third of stage one still brought a fiftieth of the whole fall of the
    loss, more would have come.
    """
    least = np.finfo(np.float32).tiny  # a pi below it is read as 0
    here, there = (-np.log(table["pi"].clip(lower=least)).mean() for table in (held_out, train))
    counts = unigram_cross_entropy(train["token"], held_out["token"])
    fall = behavior_losses[0] - min(behavior_losses)
    before = behavior_losses[2 * len(behavior_losses) // 3 - 1]
    late = max(before - min(behavior_losses), 0) / fall if fall > 0 else 0.0
    found = (
        f"{here:.2f} nats a token on held-out episodes ({there:.2f} in training, {counts:.2f} by "
        f"counts of single tokens); its last third brought {late:.0%} of the fall."
    )
    faults = [
        (here > counts + 0.02, "pi predicts worse than counts do", "more BEHAVIOR_STEPS"),
        (here > there + 0.1, "pi knows its training data by heart", "more data, a smaller model"),
        (late > 0.02, "the loss of stage one was still falling", "more BEHAVIOR_STEPS"),
    ]
    wrong = [(means, remedy) for fault, means, remedy in faults if fault]
    means = "; ".join(means for means, _ in wrong) + ": no value is better than the pi beside it."
    if not wrong:
        means = "pi is as good on new episodes as on those of training."
        if here > counts - 0.02:
            means += " It says no more than counts do: right only if actions ignore the transcript."
    remedy = "; ".join(dict.fromkeys(remedy for _, remedy in wrong))
    return _row("Is pi fitted?", not wrong, found, means, remedy)


def unigram_cross_entropy(train: pd.Series, held_out: pd.Series) -> float:
    """Nats a token of the shares of tokens in train, each and one unknown counted once more."""
    counts = train.value_counts()
    seen = held_out.map(counts).fillna(0)
    return float(-np.log((seen + 1) / (len(train) + len(counts) + 1)).mean())


def check_outcome(held_out: pd.DataFrame, constant: float) -> dict[str, str]:
    """Do the values know the outcome? By the rank correlation of Q and the return that followed.

    All of its 95 % interval must lie above 0, which a constant has, and it itself at .1 at least:
    one of .1 explains a hundredth of the spread. constant: the best one, the mean return of the
    training data; its squared error is told beside that of Q.
    """
    returns, episode = held_out["return"], held_out["episode"]
    ranks = correlation(held_out["Q"].rank(), returns.rank(), episode)
    actions = correlation(held_out["Q"] - held_out["V"], returns - held_out["V"], episode)
    error = float(((held_out["Q"] - returns) ** 2).mean())
    flat = float(((constant - returns) ** 2).mean())
    good = ranks[0] >= 0.1 and ranks[1] > 0
    found = (
        f"rank correlation with the return {ranks[0]:.2f} [{ranks[1]:.2f}, {ranks[2]:.2f}], a "
        f"constant's is 0; squared error {error:.3f}, a constant's is {flat:.3f}."
    )
    means = (
        "Q tells good actions and states from bad ones."
        if good
        else "Q says little more than a constant would, or the episodes are too few to tell."
    )
    means += (
        f" Of actions in the same state, Q - V with return - V: {actions[0]:.2f} [{actions[1]:.2f},"
        f" {actions[2]:.2f}]. Only this part moves the policy; chance hides much of it."
    )
    remedy = "more VALUE_STEPS or data; look whether the text holds what tells good from bad"
    return _row("Do the values know the outcome?", good, found, means, remedy)


def correlation(x: pd.Series, y: pd.Series, episode: pd.Series) -> tuple[float, float, float]:
    """Pearson's correlation of tokens, and its 95 % interval, whole episodes drawn together.

    0 where one of the two is constant.
    """
    x, y = (np.asarray(values - values.mean(), dtype=float) for values in (x, y))
    columns = {"n": np.ones_like(x), "x": x, "y": y, "xx": x * x, "yy": y * y, "xy": x * y}
    sums = pd.DataFrame(columns).groupby(np.asarray(episode)).sum().to_numpy()
    count = len(sums)
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    n, sx, sy, sxx, syy, sxy = (np.vstack([np.ones(count), draws]) @ sums).T
    spread = np.sqrt(np.maximum(n * sxx - sx**2, 0) * np.maximum(n * syy - sy**2, 0))
    found = np.divide(n * sxy - sx * sy, spread, out=np.zeros_like(n), where=spread > 1e-9 * n)
    low, high = np.quantile(found[1:], (0.025, 0.975))
    return float(found[0]), float(low), float(high)


def check_calibration(
    held_out: pd.DataFrame, scale: RewardScale, of_the_data: bool
) -> dict[str, str]:
    """Is Q the return that follows on average? By tenths of Q.

    Their mean distance may be a quarter of the standard deviation of the returns: then it is a
    sixteenth of their variance. A constant may pass; check_outcome finds it.
    """
    bins = calibration(held_out)
    error, spread = _distance(bins, of_the_data), float(held_out["return"].std(ddof=0))
    q, followed = (scale.to_raw(float(held_out[name].mean())) for name in ("Q", "return"))
    unit = scale.high - scale.low
    good = error <= spread / 4
    found = (
        f"mean Q {q:.3g}, mean return {followed:.3g}; {error * unit:.2g} apart over the tenths "
        f"(the spread of returns is {spread * unit:.2g})."
    )
    means = "Q can be read as the return to expect, in your units."
    if not good:
        means = "Q is not the return to expect: read it as an order at most."
    if not of_the_data:
        means += " By this BACKUP values may be above the returns; counted is what is below."
    remedy = "look at check 1 first, then more VALUE_STEPS, a larger RETURNS_FIRST, or more data"
    return _row("Are the values calibrated?", good, found, means, remedy)


def calibration(held_out: pd.DataFrame, bins: int = 10) -> pd.DataFrame:
    """Mean ``Q`` and ``return`` of each part of the tokens by Q, the parts of equal size.

    ``low`` and ``high`` are the 95 % interval of the mean return, whole episodes drawn together.
    """
    order = held_out["Q"].rank(method="first").astype(int) - 1
    part = order * bins // len(held_out)
    episode, names = pd.factorize(held_out["episode"])
    chances = np.full(len(names), 1 / len(names))
    draws = np.random.default_rng(0).multinomial(len(names), chances, RESAMPLES)
    rows = []
    for _, tokens in held_out.assign(episode=episode).groupby(part):
        weights = draws[:, tokens["episode"]]
        drawn = weights.any(axis=1)  # in some samples no token of this part is left
        returns = tokens["return"].to_numpy()
        means = weights[drawn] @ returns / weights[drawn].sum(axis=1)
        low, high = np.quantile(means, (0.025, 0.975))
        mean = returns.mean()
        row = {"Q": tokens["Q"].mean(), "return": mean}
        rows.append(row | {"low": min(low, mean), "high": max(high, mean)})
    return pd.DataFrame(rows, index=pd.RangeIndex(1, len(rows) + 1, name="part"))


def _distance(means: pd.DataFrame, of_the_data: bool) -> float:
    """Mean distance of Q and return; of a better policy's values only what is below counts."""
    above = means["Q"] - means["return"]
    return float((above.abs() if of_the_data else (-above).clip(lower=0)).mean())


def check_range(held_out: pd.DataFrame, clamped: float, of_the_data: bool) -> dict[str, str]:
    """Are the targets in [0, 1]? And is Q at the ends of that only where returns are.

    A hundredth of clamped targets is the rounding of a few; more is a scale that does not fit. Q
    below .01 or above .99 is sure of the outcome: then returns may be .05 off at most, on average.
    """
    q = held_out["Q"]
    ends = [held_out[q < 0.01], held_out[q > 0.99]]
    share = sum(map(len, ends)) / len(held_out)
    off = max(
        (
            _distance(end[["Q", "return"]].mean().to_frame().T, of_the_data)
            for end in ends
            if len(end)
        ),
        default=0.0,
    )
    sure = share <= 0.01 or off <= 0.05
    found = (
        f"{clamped:.1%} of the targets were clamped; {share:.0%} of Q lie below .01 or above .99, "
        f"and are {off:.2f} off."
    )
    if clamped > 0.01:
        means = "Rewards and later values add up to less than 0 or more than 1."
        remedy = "a RETURN_LOW and RETURN_HIGH of what is possible, or REWARD_PLACE = 'end'"
    elif not sure:
        means = "Q is sure of outcomes that do not come: the logits have run away."
        remedy = "a smaller LEARNING_RATE, fewer VALUE_STEPS, or more data"
    else:
        means, remedy = "The scale fits, and Q is sure only of what comes.", ""
    return _row("Are the targets in range?", clamped <= 0.01 and sure, found, means, remedy)


def check_support(held_out: pd.DataFrame) -> dict[str, str]:
    """Does PLAY_SUPPORT hold what the data do, and leave a choice? By tokens of held-out actions.

    Where a tenth of what is recorded lies outside, the policy cannot do what the data do. With 1.1
    tokens to choose from on average, there is a choice at one token in ten; with fewer, beta hardly
    matters.
    """
    inside, choices = float(held_out["in_support"].mean()), float(held_out["choices"].mean())
    found = f"{inside:.0%} of the recorded tokens are inside; {choices:.3g} to choose from."
    if inside < 0.9:
        means, remedy = "The policy cannot do what the data do.", "a smaller PLAY_SUPPORT"
    elif choices < 1.1:
        means = "There is hardly ever a choice: only cloning can be played, whatever Q says."
        remedy = "a smaller PLAY_SUPPORT, or data of more various actions"
    else:
        means, remedy = "The policy can do what the data do, and has a choice.", ""
    return _row("Does the support hold the data?", not remedy, found, means, remedy)


def share_with_new_tokens(train: Dataset, test: Dataset) -> float:
    """Share of test episodes with a token that is in no training episode; both as encoded."""
    known = set(chain.from_iterable(train["input_ids"]))
    return fmean(not known.issuperset(ids) for ids in test["input_ids"])
