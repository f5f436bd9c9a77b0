"""Games of ReAct as data to learn from, with its thoughts or without."""

from __future__ import annotations

from typing import Any, Literal

import gymnasium
from datasets import Dataset

from qsft_lite.baselines.react import OK, ReActPolicy
from qsft_lite.data.recording import FEATURES
from qsft_lite.evaluate import evaluate

__all__ = ["react_episodes"]


def react_episodes(
    policy: ReActPolicy,
    env: gymnasium.Env,
    n: int,
    seed: int,
    *,
    thoughts: Literal["state", "action"] | None = None,
    **options: Any,
) -> Dataset:
    """n games of a policy as a data set to learn from, with the columns of `envs.generate`.

    thoughts: "state" writes each into the observation before it, "action" makes it an action with
    the reward 0, which is answered "OK."; None leaves them out. options: those of `evaluate`.
    """
    if thoughts not in ("state", "action", None):
        raise ValueError(f'thoughts must be "state", "action" or None, not {thoughts!r}.')
    played = evaluate(policy, env, n, seed, **options)
    rows = [_with_thoughts(row, policy, thoughts) for row in played.transcripts]
    return Dataset.from_list(rows, FEATURES)


def _with_thoughts(row: dict[str, Any], policy: ReActPolicy, how: str | None) -> dict[str, Any]:
    """A row of `evaluate` with the thoughts written into it."""
    texts, is_action, rewards = [], [], []
    text = ""
    for part, acts, reward in zip(row["text"], row["is_action"], row["reward"], strict=True):
        text += part
        for thought in policy.thoughts(text) if how and acts else []:
            if how == "state":
                texts[-1] += thought
            else:
                texts += [thought, OK]
                is_action += [True, False]
                rewards += [0.0, 0.0]
        texts.append(part)
        is_action.append(acts)
        rewards.append(reward)
    return {"text": texts, "is_action": is_action, "reward": rewards, "done": row["done"]}
