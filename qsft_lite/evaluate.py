"""Seeded, paired, batched play of a policy in an environment, with intervals."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np

__all__ = [
    "Evaluation",
    "Policy",
    "bootstrap_interval",
    "evaluate",
    "normalized_score",
    "paired_difference",
]

RESAMPLES = 10_000  # of a bootstrap


class Policy(Protocol):
    """Whatever plays. One that has ``reset(seed)``, too, is started anew by evaluate."""

    def act(self, histories: list[str]) -> list[str]:
        """The next action text of each transcript so far."""


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
    """

    mean: float
    interval: tuple[float, float]
    returns: np.ndarray
    success: float
    lengths: np.ndarray
    transcripts: list[dict[str, Any]]
    seed: int


def evaluate(
    policy: Policy,
    env: gymnasium.Env,
    episodes: int,
    seed: int,
    *,
    batch: int = 256,
    options: Sequence[dict[str, Any]] | None = None,
) -> Evaluation:
    """Play episodes, many at a time.

    Episode i is reset with a seed made from (seed, i), whatever the batch and the policy, so that
    two policies meet the same episodes and their returns are paired.

    Args:
        policy: its ``reset(seed)`` is called first, if it has one.
        env: text in, text out. Each place in a batch gets a copy: ``env.clone()`` if there is one,
            else a deep copy.
        episodes: number of episodes, at least 1.
        seed: of the episodes and the policy.
        batch: episodes played at once.
        options: reset's options of each episode, such as a fixed start; drawn starts when None.

    Raises:
        ValueError: fewer than one episode or place, or not as many options as episodes.
        RuntimeError: the policy or the environment failed; the message names the episode.
    """
    if episodes < 1 or batch < 1:
        raise ValueError(f"episodes and batch must be at least 1, not {episodes} and {batch}.")
    if options is not None and len(options) != episodes:
        raise ValueError(f"{episodes} episodes need as many options, not {len(options)}.")
    if hasattr(policy, "reset"):
        policy.reset(seed)
    clone = getattr(env, "clone", None) or (lambda: copy.deepcopy(env))
    places = [clone() for _ in range(min(batch, episodes))]
    transcripts: list[dict[str, Any]] = []
    successes: list[bool] = []
    for first in range(0, episodes, batch):
        numbers = range(first, min(first + batch, episodes))
        for transcript, success in _play(policy, places, numbers, seed, options):
            transcripts.append(transcript)
            successes.append(success)

    returns = np.array([sum(transcript["reward"]) for transcript in transcripts])
    return Evaluation(
        mean=float(returns.mean()),
        interval=bootstrap_interval(returns),
        returns=returns,
        success=float(np.mean(successes)),
        lengths=np.array([sum(transcript["is_action"]) for transcript in transcripts]),
        transcripts=transcripts,
        seed=seed,
    )


def episode_seed(seed: int, episode: int) -> int:
    """The seed that an episode is reset with."""
    return int(np.random.SeedSequence([seed, episode]).generate_state(1)[0])


def _play(
    policy: Policy,
    places: list[gymnasium.Env],
    numbers: range,
    seed: int,
    options: Sequence[dict[str, Any]] | None,
) -> list[tuple[dict[str, Any], bool]]:
    """Play the episodes of these numbers in lockstep; each one's transcript and success."""
    transcripts = []
    for env, number in zip(places, numbers, strict=False):
        start = options[number] if options else None
        text, _ = env.reset(seed=episode_seed(seed, number), options=start)
        transcripts.append({"text": [text], "is_action": [False], "reward": [0.0], "done": False})
    histories = [transcript["text"][0] for transcript in transcripts]
    successes = [False] * len(transcripts)

    going = list(range(len(transcripts)))
    while going:
        actions = _act(policy, [histories[i] for i in going], [numbers[i] for i in going])
        still_going = []
        for i, action in zip(going, actions, strict=True):
            try:
                text, reward, terminated, truncated, info = places[i].step(action)
            except Exception as error:
                raise RuntimeError(
                    f"Episode {numbers[i]}: the environment failed at action {action!r}: {error}"
                ) from error
            transcript = transcripts[i]
            transcript["text"] += [action, text]
            transcript["is_action"] += [True, False]
            transcript["reward"] += [float(reward), 0.0]
            histories[i] += action + text
            if terminated or truncated:
                transcript["done"] = bool(terminated)
                successes[i] = bool(info.get("success", False))
            else:
                still_going.append(i)
        going = still_going
    return list(zip(transcripts, successes, strict=True))


def _act(policy: Policy, histories: list[str], numbers: list[int]) -> list[str]:
    """The policy's actions; an error says which episode it comes from."""
    try:
        actions = policy.act(histories)
    except Exception as error:
        number = _failing(policy, histories, numbers)
        where = f"episode {number}" if number is not None else f"some of the episodes {numbers}"
        raise RuntimeError(f"The policy failed in {where}: {error}") from error
    if len(actions) != len(histories):
        raise RuntimeError(f"The policy gave {len(actions)} actions for {len(histories)} episodes.")
    for action, number in zip(actions, numbers, strict=True):
        if not isinstance(action, str):
            raise RuntimeError(f"Episode {number}: the policy's action is {action!r}, not a text.")
    return actions


def _failing(policy: Policy, histories: list[str], numbers: list[int]) -> int | None:
    """The first episode that the policy fails in alone, if there is one."""
    for history, number in zip(histories, numbers, strict=True):
        try:
            policy.act([history])
        except Exception:
            return number
    return None


def paired_difference(a: Evaluation, b: Evaluation) -> tuple[float, float, float]:
    """Mean of a's returns minus b's on the same episodes, and its 95 % bootstrap interval.

    Raises:
        ValueError: their episodes are not the same.
    """
    if (a.seed, len(a.returns)) != (b.seed, len(b.returns)):
        raise ValueError(
            f"Not the same episodes: {len(a.returns)} of seed {a.seed} and "
            f"{len(b.returns)} of seed {b.seed}."
        )
    differences = a.returns - b.returns
    return float(differences.mean()), *bootstrap_interval(differences)


def normalized_score(
    raw: float | np.ndarray, low: float, middle: float, high: float
) -> float | np.ndarray:
    """LMRL-Gym's score: piecewise linear, 0 at low, 50 at middle, 100 at high, and on from there.

    Args:
        raw: returns in the task's own units, of any shape.
        low: the least possible return.
        middle: the mean return of the data.
        high: the best known return.

    Raises:
        ValueError: the three are not in ascending order.
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
