r"""Episodes in the files of other projects: each form, and what it becomes.

`load_trajectories` finds the form of each record by its keys (`FORMATS`, first match first), in
files of JSON lines and in whole JSON documents:

    sequence       {"sequence": [[text, is_action], ...], "reward": [...], "done"}: ours, and
                   LMRL-Gym's Wordle, which has one reward fewer, none for its first text;
                   perhaps with "images", a list of references, see `images`
    transitions    [{"state", "action", "reward", "done"}, ...], or one such object a line until it
                   is done; with "from_state" (chess), both are spelt as LMRL-Gym's reader does
    text_history   {"text_history": [state, action, state, ...], "rewards", "dones"}: a number for
                   each text or for each action
    questions      {"lines" or "conversation": ["question? answer", ...], "correct" or "done"}:
                   LMRL-Gym's Twenty Questions and ArCHer; -1 a question, 0 for the right guess
    conversations  {"conversations": [{"from", "value", "loss"?}, ...]}: AgentTraj, AgentInstruct,
                   ETO, ShareGPT; a "gpt" turn is an action, unless its loss is false
    pairs          {"prompt", "chosen", "rejected"} of such turns (ETO, TRL): two episodes with the
                   rewards 1 and 0; the prompt has no action
    messages       {"messages": [{"role", "content"}, ...]}: chat; an "assistant" turn is an action

Conversations become one text a turn, each with a newline at its end. With a tokenizer, they and
messages become what its chat template makes of them: an action is then all that the model itself
would write, the mark at the end of its turn included. A bos token in front is left out: `encode`
adds one. Such texts hold special tokens, so `encode` and the policy need `chat_template=True`, and
no message may spell one: `chat_segments` gives the policy the same texts in play.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import chain
from os import PathLike
from reprlib import repr as brief
from typing import Any

from transformers import PreTrainedTokenizerBase

from qsft_lite.data.transcripts import special_texts
from qsft_lite.files import open_unpacked

Episode = dict[str, Any]  # text, is_action, reward, done
Segments = list[tuple[str, bool]]  # (text, is_action)
Tokenizer = PreTrainedTokenizerBase | None

MOST_QUESTIONS = 20  # of a game of Twenty Questions
SPEAKERS = {"human": "user", "gpt": "assistant"}  # by the names of chat templates
ROLES = ("system", "user", "assistant")


def read_records(path: str | PathLike) -> Iterator[tuple[str, Any]]:
    """The place and the content of each record of a file: JSON, or a ValueError for what is none.

    Transitions that have a line each are joined to lists of them.

    Raises ValueError, naming the file, for a damaged gzip file or one in UTF-16.
    """
    return _join_transitions(_read_items(path))


def _read_items(path: str | PathLike) -> Iterator[tuple[str, Any]]:
    number = 0
    try:
        with open_unpacked(path) as file:
            first = file.readline()
            # A document of many lines begins with a bracket that its first line leaves open.
            opened = first.lstrip().startswith(b"[") or first.strip() == b"{"
            if opened and isinstance(_parse(first), ValueError):
                rest = file.read()
                document = _parse(first + rest)
                if not isinstance(document, ValueError):
                    yield from _each(str(path), document)
                    return
                file = BytesIO(rest)
            for number, line in enumerate(chain([first], file), start=1):
                if line.strip():
                    yield from _each(f"{path}:{number}", _parse(line))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{path}: damaged gzip after line {number} ({error}): fetch or write it again"
        ) from error


def _parse(content: bytes) -> Any:
    try:
        return json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        return ValueError(f"not a line of JSON in UTF-8 ({error})")


def _each(place: str, record: Any) -> Iterator[tuple[str, Any]]:
    """The records of a list; a list of transitions is one record."""
    several = isinstance(record, list) and any(isinstance(item, (dict, list)) for item in record)
    if several and not _is_transition(record[0]):
        for number, item in enumerate(record, start=1):
            yield f"{place}: item {number}", item
    else:
        yield place, record


def _join_transitions(items: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """The items with lists of the transitions that had a line each, up to one that is done.

    What is no JSON among them spoils its list: the episode would lack a move.
    """
    held: list[Any] = []
    first = ""
    for place, record in items:
        joins = _is_transition(record) or (held and isinstance(record, ValueError))
        if held and not joins:  # cut off
            yield first, held
            held = []
        if not joins:
            yield place, record
            continue
        first = first if held else place
        held.append(record)
        if isinstance(record, dict) and record.get("done"):
            yield first, held
            held = []
    if held:
        yield first, held


def _is_transition(record: Any) -> bool:
    return (
        isinstance(record, dict)
        and "action" in record
        and (
            "state" in record or "from_state" in record  # of LMRL-Gym's chess
        )
    )


def form_of(record: Any) -> str | None:
    """The form of a record, one of FORMATS; None for none of them."""
    return next((name for name, (fits, _) in FORMATS.items() if fits(record)), None)


def convert(record: Any, reward: float | None = None, tokenizer: Tokenizer = None) -> list[Episode]:
    """The unchecked episodes of a record, which pairs have two of; ValueError says what is wrong.

    reward: of the last action, where the record has none.
    """
    if isinstance(record, ValueError):
        raise record
    form = form_of(record)
    if form is None:
        keys = f" with the keys {brief(list(record))}" if isinstance(record, dict) else ""
        raise ValueError(
            'an episode is an object {"sequence", "reward", "done"}, or has another of the '
            f"forms {', '.join(FORMATS)}; this is {type(record).__name__}{keys}"
        )
    _, read = FORMATS[form]
    return read(record, reward, tokenizer)


def chat_segments(messages: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase) -> Segments:
    """A chat so far as segments, by the tokenizer's chat template: what a policy goes on from.

    Args:
        messages: {"role", "content"} each, as `apply_chat_template` takes them. After the last one
            comes what asks the assistant to speak, unless it spoke itself.
        tokenizer: a chat model's.

    Raises:
        ValueError: as of `load_trajectories`: turns that the template refuses or writes anew, or a
            message that spells a special token.
    """
    messages, acts = _turns(messages, "messages")
    return _templated(messages, acts, tokenizer, prompt=bool(acts) and not acts[-1])


# One function a form: (record, reward, tokenizer) -> episodes


def _sequence(record: dict, reward: float | None, tokenizer: Tokenizer) -> list[Episode]:
    for key in ("reward", "done"):
        if key not in record:
            raise ValueError(f"key {key!r} is missing")
    sequence, rewards = record["sequence"], record["reward"]
    if not isinstance(sequence, list):
        raise ValueError("sequence must be a list")
    for i, pair in enumerate(sequence):
        if not isinstance(pair, list) or len(pair) != 2:
            raise ValueError(f"sequence[{i}] must be [text, is_action]")
    # LMRL-Gym's Wordle was rewarded before it got its header; its reader does the same.
    headed = sequence and sequence[0][1] in (False, 0)
    if headed and isinstance(rewards, list) and len(rewards) == len(sequence) - 1:
        rewards = [0.0, *rewards]
    images = {"images": record["images"]} if "images" in record else {}
    return [{**_episode(sequence, rewards, record["done"]), **images}]


def _transitions(record: list, reward: float | None, tokenizer: Tokenizer) -> list[Episode]:
    episodes: list[Episode] = []
    segments: Segments = []
    rewards: list[Any] = []
    for number, step in enumerate(record, start=1):
        if isinstance(step, ValueError):
            raise ValueError(f"transition {number}: {step}")
        if not _is_transition(step) or "reward" not in step or "done" not in step:
            raise ValueError(f"transition {number} must have state, action, reward and done")
        state, action = step.get("state", step.get("from_state")), step["action"]
        if not isinstance(state, str) or not isinstance(action, str):
            raise ValueError(f"transition {number}: state and action must be texts")
        if "state" not in step:
            state, action = " ".join(state) + "\n", " ".join(action) + "\n"
        segments += [(state, False), (action, True)]
        rewards += [0.0, step["reward"]]
        if step["done"] or number == len(record):
            episodes.append(_episode(segments, rewards, step["done"]))
            segments, rewards = [], []
    return episodes


def _text_history(record: dict, reward: float | None, tokenizer: Tokenizer) -> list[Episode]:
    texts, rewards, dones = (record.get(key) for key in ("text_history", "rewards", "dones"))
    if not all(isinstance(part, list) and part for part in (texts, rewards, dones)):
        raise ValueError("text_history, rewards and dones must be lists, and not empty")
    actions = len(texts) // 2
    if len(rewards) == actions != len(texts):
        rewards = [0.0, *(number for reward in rewards for number in (reward, 0.0))][: len(texts)]
    segments = [(text, i % 2 == 1) for i, text in enumerate(texts)]
    done = dones[2 * actions - 1] if len(dones) == len(texts) else dones[-1]
    return [_episode(segments, rewards, done)]


def _questions(record: dict, reward: float | None, tokenizer: Tokenizer) -> list[Episode]:
    # Answers of yes and no have no question mark; others may, and then the first one counts.
    key, cut = ("lines", str.rpartition) if "lines" in record else ("conversation", str.partition)
    lines = record[key]
    if not isinstance(lines, list) or not lines:
        raise ValueError(f"{key} must be a list of 'question? answer', and not empty")
    segments: Segments = [("Questions:\n", False)]
    for number, line in enumerate(lines, start=1):
        if not isinstance(line, str) or "?" not in line:
            raise ValueError(f"{key} {number} is {brief(line)}, not 'question? answer'")
        question, mark, answer = cut(line, "?")
        segments += [(question + mark + "\n", True), (answer.strip() + "\n", False)]
    guessed = record.get("correct", record.get("done"))
    if guessed is None:
        return [_rewarded(segments, _needed(reward))]
    if not isinstance(guessed, bool):
        raise ValueError(f"correct or done is {brief(guessed)}, not true or false")
    rewards = [0.0] + [-1.0, 0.0] * len(lines)
    if guessed:
        rewards[-2] = 0.0
    return [_episode(segments, rewards, guessed or len(lines) >= MOST_QUESTIONS)]


def _conversations(record: dict, reward: float | None, tokenizer: Tokenizer) -> list[Episode]:
    return [_chat(record, "conversations", reward, tokenizer)]


def _messages(record: dict, reward: float | None, tokenizer: Tokenizer) -> list[Episode]:
    if tokenizer is None:
        raise ValueError("messages are written by a chat template: pass tokenizer=, the model's")
    return [_chat(record, "messages", reward, tokenizer)]


def _pairs(record: dict, reward: float | None, tokenizer: Tokenizer) -> list[Episode]:
    prompt, _ = _turns(record.get("prompt", []), "prompt")
    episodes = []
    for key, worth in (("chosen", 1.0), ("rejected", 0.0)):
        answers, acts = _turns(record[key], key)
        segments = _spoken(prompt + answers, [False] * len(prompt) + acts, tokenizer)
        episodes.append(_rewarded(segments, worth))
    return episodes


def _has(*keys: str) -> Callable[[Any], bool]:
    return lambda record: isinstance(record, dict) and all(key in record for key in keys)


FORMATS: dict[str, tuple[Callable[[Any], bool], Callable[..., list[Episode]]]] = {
    "sequence": (_has("sequence"), _sequence),
    "transitions": (
        lambda r: isinstance(r, list) and bool(r) and _is_transition(r[0]),
        _transitions,
    ),
    "text_history": (_has("text_history"), _text_history),
    "questions": (lambda r: _has("lines")(r) or _has("conversation")(r), _questions),
    "conversations": (_has("conversations"), _conversations),
    "pairs": (_has("chosen", "rejected"), _pairs),
    "messages": (_has("messages"), _messages),
}

CHATS = {"conversations", "pairs", "messages"}  # the forms that a chat template may write


# What they share


def _episode(segments: Any, rewards: Any, done: Any) -> Episode:
    return {
        "text": [text for text, _ in segments],
        "is_action": [is_action for _, is_action in segments],
        "reward": rewards,
        "done": done,
    }


def _rewarded(segments: Segments, reward: Any, done: Any = True) -> Episode:
    """An episode with its whole reward on the last action."""
    last = max((i for i, (_, is_action) in enumerate(segments) if is_action), default=None)
    rewards = [reward if i == last else 0.0 for i in range(len(segments))]
    return _episode(segments, rewards, done)


def _needed(reward: float | None) -> float:
    if reward is None:
        raise ValueError("no reward in this form: pass reward=, that of the last action")
    return reward


def _chat(record: dict, key: str, reward: float | None, tokenizer: Tokenizer) -> Episode:
    """The episode of a conversation, with the reward and the end that it tells, if it tells any."""
    if "rewards" in record:
        raise ValueError("rewards: a conversation has one number, 'reward', for the whole of it")
    meta = record["meta"] if isinstance(record.get("meta"), dict) else {}
    told = record.get("reward", meta.get("reward"))
    done = record.get("done", meta.get("finished", True))
    segments = _spoken(*_turns(record[key], key), tokenizer)
    return _rewarded(segments, _needed(reward) if told is None else told, done)


def _turns(turns: Any, name: str) -> tuple[list[dict[str, Any]], list[bool]]:
    """The turns as messages of a chat, and which of them are actions."""
    if not isinstance(turns, list):
        raise ValueError(f"{name} must be a list of turns, got {brief(turns)}")
    messages, acts = [], []
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict):
            raise ValueError(f"{name} {number} is {brief(turn)}, not a turn")
        role = turn.get("from", turn.get("role"))
        content = turn.get("value", turn.get("content"))
        if "from" in turn or "value" in turn:  # "role" and "value" come together too
            role = SPEAKERS.get(role, role) if isinstance(role, str) else role
            if role not in ROLES:
                known = ", ".join([*ROLES, *SPEAKERS])
                raise ValueError(f"{name} {number} is from {brief(role)}, none of {known}")
            turn = {"role": role, "content": content, "loss": turn.get("loss")}
        if not isinstance(turn.get("role"), str):
            raise ValueError(f"{name} {number} has no role")
        messages.append(turn)
        acts.append(turn["role"] == "assistant" and turn.get("loss") in (None, True, 1))
    return messages, acts


def _spoken(
    messages: list[dict[str, Any]], acts: list[bool], tokenizer: PreTrainedTokenizerBase | None
) -> Segments:
    """The turns as texts, by the tokenizer's chat template or a paragraph each."""
    if tokenizer is not None:
        return _templated(messages, acts, tokenizer)
    segments: Segments = []
    for number, (message, act) in enumerate(zip(messages, acts, strict=True), start=1):
        content = message.get("content")
        if not isinstance(content, str):
            raise ValueError(f"turn {number} says {brief(content)}, not a text")
        segments.append((content if content.endswith("\n") else content + "\n", act))
    return segments


def _templated(
    messages: list[dict[str, Any]],
    acts: list[bool],
    tokenizer: PreTrainedTokenizerBase,
    prompt: bool = False,
) -> Segments:
    special = special_texts(tokenizer)
    for number, message in enumerate(messages, start=1):
        texts = json.dumps(message, ensure_ascii=False, default=str)  # the arguments of tools, too
        spelt = next((token for token in special if token in texts), None)
        if spelt is not None:
            raise ValueError(f"turn {number} holds the text of the special token {spelt!r}")
    segments: Segments = []
    said = ""
    for number, act in enumerate(acts):
        if not act:
            continue
        before = _template(messages[:number], tokenizer, prompt=True)
        after = _template(messages[: number + 1], tokenizer)
        _check_begins(before, said, number)
        _check_begins(after, before, number + 1)
        action = after[len(before) :]
        content = messages[number].get("content")
        content = content.rstrip() if isinstance(content, str) else ""
        if not content or not action.rstrip().endswith(content):
            action = action.rstrip() or action  # up to the mark that ends the turn
        segments += [(before[len(said) :], False), (action, True)]
        said = before + action
    whole = _template(messages, tokenizer, prompt)
    _check_begins(whole, said, len(messages))
    return [*segments, (whole[len(said) :], False)] if whole != said else segments


def _template(
    messages: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, prompt: bool = False
) -> str:
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    except Exception as error:  # a template is a program: whatever it raises
        raise ValueError(f"the chat template refuses the turns: {error}") from error
    return text.removeprefix(tokenizer.bos_token or "")


def _check_begins(text: str, beginning: str, number: int) -> None:
    if not text.startswith(beginning):
        raise ValueError(
            f"turn {number}: the chat template writes earlier turns anew: use one that keeps them"
        )
