"""Seeded, paired, batched play of a policy in an environment, with intervals."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import gymnasium
import numpy as np

from qsft_lite.data.transcripts import IMAGE, ContextError, Transcript

__all__ = [
    "Evaluation",
    "Policy",
    "bootstrap_interval",
    "episode_seed",
    "evaluate",
    "normalized_score",
    "paired_difference",
]

RESAMPLES = 10_000  # of a bootstrap

Pictures = list[list[np.ndarray] | None]  # of each episode; None where the environment has none


class Policy(Protocol):
    """Whatever plays. One that has ``reset(seed)``, too, is started anew by evaluate."""

    def act(self, histories: list[str]) -> list[str]:
        """The next action text of each transcript so far, given as a `Transcript`: a str.

        For an environment with pictures it is ``act(histories, images=images)``: of each transcript
        a list of (H, W, 3) uint8 arrays, one for each "<image>" in it.
        """


@dataclass(frozen=True)
class Evaluation:
    """What a policy scored.

    Attributes:
        mean: of the returns, in the task's own units.
        interval: 95 % bootstrap interval of the mean.
        returns: (episodes,), float64, the sum of an episode's rewards.
        success: share of episodes whose last info says success.
        lengths: (episodes,), int64, actions of an episode.
        transcripts: one dict an episode, a row of a data set: text, is_action, reward, done.
        seed: what the episodes were drawn with.
        cut_off: episodes that were not let go on: by max_steps, or beyond the models' context.
        valid: share of the actions that the environment's info called valid, or said nothing of.
    """

    mean: float
    interval: tuple[float, float]
    returns: np.ndarray
    success: float
    lengths: np.ndarray
    transcripts: list[dict[str, Any]]
    seed: int
    cut_off: int = 0
    valid: float = 1.0


def evaluate(
    policy: Policy,
    env: gymnasium.Env,
    episodes: int,
    seed: int,
    *,
    batch: int = 256,
    options: Sequence[dict[str, Any]] | None = None,
    max_steps: int | None = None,
) -> Evaluation:
    """Play episodes, many at a time.

    An episode that would become longer than the models' context is cut off where it is, as one of
    max_steps is, and the others go on: it is not done, it has the return so far, and it is counted.

    Episode i is reset with `episode_seed(seed, i)`, whatever the batch and the policy, so that
    two policies meet the same episodes and their returns are paired.

    Args:
        policy: its ``reset(seed)`` is called first, if it has one.
        env: text in, text out; one with pictures has the attribute ``images = True``, and its info
            an "image" (H, W, 3) uint8 for the one "<image>" in its text. Each place in a batch gets
            a copy: ``env.clone()`` if there is one, else a deep copy. ``step_together(envs,
            actions)``, if its class has it, gives what ``step`` of each would, faster.
        episodes: number of episodes.
        seed: of the episodes and the policy.
        batch: episodes played at once.
        options: reset's options of each episode, such as a fixed start; drawn starts when None.
        max_steps: the most actions of an episode; None for as many as the environment lets it have.

    Raises:
        ValueError: fewer than one episode, place or step, or not as many options as episodes.
        RuntimeError: the policy or the environment failed; the message names the episode.
    """
    for name, value in (("episodes", episodes), ("batch", batch), ("max_steps", max_steps)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}.")
    if options is not None and len(options) != episodes:
        raise ValueError(f"{episodes} episodes need as many options, not {len(options)}.")
    if hasattr(policy, "reset"):
        policy.reset(seed)
    clone = getattr(env, "clone", None) or (lambda: copy.deepcopy(env))
    places = [clone() for _ in range(min(batch, episodes))]
    played: list[_Episode] = []
    for first in range(0, episodes, batch):
        numbers = range(first, min(first + batch, episodes))
        played += _play(policy, places, numbers, seed, options, max_steps)

    transcripts = [episode.row() for episode in played]
    lengths = np.array([sum(transcript["is_action"]) for transcript in transcripts])
    returns = np.array([sum(transcript["reward"]) for transcript in transcripts])
    return Evaluation(
        mean=float(returns.mean()),
        interval=bootstrap_interval(returns),
        returns=returns,
        success=float(np.mean([episode.success for episode in played])),
        lengths=lengths,
        transcripts=transcripts,
        seed=seed,
        cut_off=sum(episode.cut_off for episode in played),
        valid=1 - sum(episode.invalid for episode in played) / max(int(lengths.sum()), 1),
    )


def episode_seed(seed: int, number: int) -> int:
    """What `evaluate` resets an environment with in its episode of this number, from 0 on."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


@dataclass
class _Episode:
    """An episode as it is played."""

    number: int
    env: gymnasium.Env
    segments: list[tuple[str, bool]]
    rewards: list[float]
    done: bool = False
    success: bool = False
    cut_off: bool = False
    invalid: int = 0
    images: list[np.ndarray] | None = None  # of an environment that has pictures

    def see(self, text: str, info: dict[str, Any]) -> None:
        """Keep the picture that belongs to a text, where the environment has pictures."""
        if self.images is None:
            return
        image = info.get("image")
        if text.count(IMAGE) != (image is not None):
            raise RuntimeError(
                f'Episode {self.number}: the environment said {text.count(IMAGE)} "{IMAGE}", and '
                f"info has {'no' if image is None else 'one'} image."
            )
        if image is not None:
            self.images.append(image)

    def row(self) -> dict[str, Any]:
        """It as a row of a data set."""
        texts, is_action = (list(column) for column in zip(*self.segments, strict=True))
        return {"text": texts, "is_action": is_action, "reward": self.rewards, "done": self.done}

    def answer(self, action: str) -> tuple:
        """What the environment gives for an action."""
        try:
            return self.env.step(action)
        except Exception as error:
            raise RuntimeError(
                f"Episode {self.number}: the environment failed at action {action!r}: {error}"
            ) from error

    def keep(self, action: str, answer: tuple) -> bool:
        """Write down an action and what came of it; whether the episode goes on."""
        text, reward, terminated, truncated, info = answer
        _check_text(text, self.number)
        self.see(text, info)
        try:
            reward = float(reward)
        except (TypeError, ValueError):
            reward = math.nan
        if not math.isfinite(reward):
            raise RuntimeError(
                f"Episode {self.number}: the reward of action {action!r} is not a finite number."
            )
        self.segments += [(action, True), (text, False)]
        self.rewards += [reward, 0.0]
        self.done = bool(terminated)
        self.success = bool(info.get("success", False))
        self.invalid += not info.get("valid", True)
        return not (terminated or truncated)


def _check_text(text: Any, number: int) -> None:
    if not isinstance(text, str):
        raise RuntimeError(f"Episode {number}: the environment said {text!r}, which is no text.")


def _play(
    policy: Policy,
    places: list[gymnasium.Env],
    numbers: range,
    seed: int,
    options: Sequence[dict[str, Any]] | None,
    max_steps: int | None,
) -> list[_Episode]:
    """Play the episodes of these numbers in lockstep."""
    episodes = []
    for env, number in zip(places, numbers, strict=False):
        start = options[number] if options else None
        text, info = env.reset(seed=episode_seed(seed, number), options=start)
        _check_text(text, number)
        images = [] if getattr(getattr(env, "unwrapped", env), "images", False) else None
        episodes.append(_Episode(number, env, [(text, False)], [0.0], images=images))
        episodes[-1].see(text, info)

    going, steps = episodes, 0
    while going:
        if steps == max_steps:
            for episode in going:
                episode.cut_off = True
            break
        acting, actions = _act(policy, going)
        together = getattr(type(places[0]), "step_together", None)
        if together is None:
            answers = [one.answer(action) for one, action in zip(acting, actions, strict=True)]
        else:
            answers = _answers(together, acting, actions)
        took = zip(acting, actions, answers, strict=True)
        going = [episode for episode, action, answer in took if episode.keep(action, answer)]
        steps += 1
    return episodes


def _answers(together: Any, acting: list[_Episode], actions: list[str]) -> list[tuple]:
    """What environments that are stepped together give."""
    try:
        return together([episode.env for episode in acting], actions)
    except Exception as error:
        numbers = ", ".join(str(episode.number) for episode in acting)
        raise RuntimeError(f"Episodes {numbers}: the environment failed: {error}") from error


def _act(policy: Policy, going: list[_Episode]) -> tuple[list[_Episode], list[str]]:
    """The episodes that go on, and the policy's actions; those beyond its context are cut off.

    An error says which episode it comes from.
    """
    while going:
        histories = [Transcript(episode.segments) for episode in going]
        images = [None if e.images is None else list(e.images) for e in going]
        try:
            actions = _ask(policy, histories, images)
            break
        except Exception as error:
            long = _too_long(policy, histories, images, error)
            for place in long:
                going[place].cut_off = len(going[place].segments) > 1
            if not all(going[place].cut_off for place in long) or not long:
                _raise_failure(policy, histories, images, [e.number for e in going], error)
            going = [episode for episode in going if not episode.cut_off]
    else:
        return [], []
    numbers = [episode.number for episode in going]
    if len(actions) != len(histories):
        raise RuntimeError(f"The policy gave {len(actions)} actions for {len(histories)} episodes.")
    for action, number in zip(actions, numbers, strict=True):
        if not isinstance(action, str):
            raise RuntimeError(f"Episode {number}: the policy's action is {action!r}, not a text.")
    return going, actions


def _ask(policy: Policy, histories: list[Transcript], images: Pictures) -> list[str]:
    """The policy's actions; of an environment with pictures it is shown them."""
    return policy.act(histories) if images[0] is None else policy.act(histories, images=images)


def _too_long(
    policy: Policy, histories: list[Transcript], images: Pictures, error: Exception
) -> list[int]:
    """Places of the histories that are too long for the policy; none for another error."""
    if not isinstance(error, ContextError):
        return []
    named = [i for i, one in enumerate(histories) if any(one is long for long in error.histories)]
    if named:
        return named
    errors = (_error(policy, one, own) for one, own in zip(histories, images, strict=True))
    return [i for i, found in enumerate(errors) if isinstance(found, ContextError)]


def _raise_failure(
    policy: Policy,
    histories: list[Transcript],
    images: Pictures,
    numbers: list[int],
    error: Exception,
) -> NoReturn:
    """Say which episode the policy fails in alone, if there is one."""
    each = zip(numbers, histories, images, strict=True)
    number = next((n for n, one, own in each if _error(policy, one, own)), None)
    where = f"episode {number}" if number is not None else f"some of the episodes {numbers}"
    raise RuntimeError(f"The policy failed in {where}: {error}") from error


def _error(
    policy: Policy, history: Transcript, images: list[np.ndarray] | None
) -> Exception | None:
    """What goes wrong where the policy is given this history alone."""
    try:
        _ask(policy, [history], [images])
    except Exception as error:
        return error
    return None


def paired_difference(a: Evaluation, b: Evaluation) -> tuple[float, float, float]:
    """Mean of a's returns minus b's on the same episodes, and its 95 % bootstrap interval."""
    if (a.seed, len(a.returns)) != (b.seed, len(b.returns)):
        raise ValueError(
            f"{len(a.returns)} episodes of seed {a.seed} are not {len(b.returns)} of seed {b.seed}."
        )
    differences = a.returns - b.returns
    return float(differences.mean()), *bootstrap_interval(differences)


def normalized_score(
    raw: float | np.ndarray, low: float, middle: float, high: float
) -> float | np.ndarray:
    """LMRL-Gym's score: piecewise linear, 0 at low, 50 at middle, 100 at high, and on from there.

    raw: returns in the task's own units, of any shape. low, middle, high: the least possible
    return, the data's mean and the best known one; ValueError unless they ascend.
    """
    if not low < middle < high:
        raise ValueError(f"low < middle < high must hold, not {low}, {middle}, {high}.")
    raw = np.asarray(raw, dtype=float)
    below = 50 * (raw - low) / (middle - low)
    above = 50 + 50 * (raw - middle) / (high - middle)
    return np.where(raw < middle, below, above)[()]


def bootstrap_interval(values: np.ndarray) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean, always the same for the same values."""
    random = np.random.default_rng(0)
    blocks = [random.choice(values, (RESAMPLES // 10, len(values))) for _ in range(10)]
    means = np.concatenate([block.mean(1) for block in blocks])
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
