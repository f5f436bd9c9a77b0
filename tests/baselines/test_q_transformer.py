"""Q-Transformer: its loss by loops, its choices, and its fixed point on actions of two tokens."""

import dataclasses
import math
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TrainerCallback

from qsft_lite import baselines, data
from qsft_lite.baselines import METHODS, TrainedMethod
from qsft_lite.baselines.methods import no_actions
from qsft_lite.baselines.q_transformer import (
    FIRST_VALUE,
    QTransformerStage,
    TokenValues,
    choices_table,
    places_in_actions,
    q_transformer_losses,
)
from qsft_lite.data import collate, pack
from qsft_lite.models import small_model, word_tokenizer
from qsft_lite.policy.constraints import ActionList
from qsft_lite.trainer import QSFTConfig

datasets.disable_progress_bars()

# A walk of three places, 0 to 2. An action says how hard and which way: two words. The first word
# names its place, too, so that a model that reads one word knows all that it must.

PLACES, PUSHES, WAYS = 3, 3, 2
STATES = tuple(f"at{place} " for place in range(PLACES))
FIRST = tuple(f"x{place}{push} " for place in range(PLACES) for push in range(PUSHES))
SECOND = tuple(f"y{way} " for way in range(WAYS))
TOKENIZER = word_tokenizer((*STATES, *FIRST, *SECOND, "end "))
GAMMA, ALPHA, LENGTH = 0.8, 0.5, 128


def ids(words):
    return TOKENIZER.convert_tokens_to_ids(list(words))


def walks(games, seed):
    """Recorded walks of a random behavior policy; some are cut off after a few steps."""
    rng = np.random.default_rng(seed)
    pushes = rng.dirichlet(np.full(PUSHES, 2.0), size=PLACES)
    ways = rng.dirichlet(np.full(WAYS, 3.0), size=(PLACES, PUSHES))
    found = []
    for _ in range(games):
        place, done, row = 0, False, {"text": [STATES[0]], "is_action": [False], "reward": [0.0]}
        for _ in range(6):
            push = rng.choice(PUSHES, p=pushes[place])
            way = rng.choice(WAYS, p=ways[place, push])
            moved = rng.random() < 0.25 + 0.3 * push  # harder is surer, and ends more walks
            done = rng.random() < 0.12 * (1 + push)
            reward = float(rng.random() < (0.1, 0.3, 0.8)[place]) if done else 0.0
            row["text"].append(FIRST[place * PUSHES + push] + SECOND[way])
            place = int(np.clip(place + (2 * way - 1) * moved, 0, PLACES - 1))
            row["text"].append("end " if done else STATES[place])
            row["is_action"] += [True, False]
            row["reward"] += [reward, 0.0]
            if done:
                break
        found.append({**row, "done": done})
    return found


def encoded(games, discount="turn", low=0.0):
    scale = data.RewardScale(low=low, high=1.0, place="step")
    dataset = datasets.Dataset.from_list(games)
    return data.encode(dataset, TOKENIZER, scale=scale, gamma=GAMMA, discount=discount)


def fixed_point(games, *, bound=True, of_first=1.0, alpha=ALPHA):
    """Q (words, words), float64: of a context, the last word read, and a token; by iteration.

    From the texts alone: contexts are states and first words, and their choices all first words or
    all second ones. of_first: the discount of a first word.
    """
    words = [*STATES, *FIRST, *SECOND]
    number = {word: place for place, word in enumerate(words)}
    steps = []
    for game in games:
        actions, returned = [i for i, own in enumerate(game["is_action"]) if own], 0.0
        for i in reversed(actions):
            first, second = (f"{word} " for word in game["text"][i].split())
            paid, state, after = game["reward"][i], *game["text"][i - 1 : i + 2 : 2]
            ended = game["done"] and i == actions[-1]
            returned = paid + GAMMA * returned
            following = () if ended else (after, FIRST)
            steps.append((first, second, paid, GAMMA, following, returned))
            returned = of_first * returned
            steps.append((state, first, 0.0, of_first, (first, SECOND), returned))
    sizes = {**dict.fromkeys(STATES, len(FIRST)), **dict.fromkeys(FIRST, len(SECOND))}
    q = np.zeros((len(words), len(words)))
    counts, pairs = np.zeros_like(q), [(number[c], number[a]) for c, a, *_ in steps]
    for pair in pairs:
        counts[pair] += 1
    tokens = counts.sum(1, keepdims=True)
    others = np.array([[max(sizes.get(word, 2) - 1, 1)] for word in words])
    weight = counts + alpha * (tokens - counts) / others
    at_bound = 0
    for _ in range(400):
        sums, at_bound = np.zeros_like(q), 0
        for pair, (_, _, paid, discount, following, returned) in zip(pairs, steps, strict=True):
            y = paid
            if following:
                y += discount * max(q[number[following[0]], number[b]] for b in following[1])
            at_bound += returned > y
            sums[pair] += min(max(y, returned) if bound else y, 1.0)
        new = np.divide(sums, weight, out=np.zeros_like(q), where=weight > 0)
        change, q = np.abs(new - q).max(), new
        if change < 1e-12:
            break
    assert change < 1e-9
    return SimpleNamespace(q=q, words=words, counts=counts, at_bound=at_bound / len(steps))


def arguments(folder, **changes):
    named = {
        "output_dir": str(folder),
        "max_steps": 400,
        "per_device_train_batch_size": 64,
        "learning_rate": 0.03,
        "lr_scheduler_type": "linear",
        "target_rate": 0.1,
        "adam_beta2": 0.95,
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_steps": 100,
    }
    return QSFTConfig(**{**named, **changes})


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    games, folder = walks(120, seed=1), tmp_path_factory.mktemp("runs")
    model = small_model(TOKENIZER, layers=0, width=32, heads=2, context=LENGTH, seed=0)
    episodes = encoded(games)
    options = {"max_steps": 100, "learning_rate": 0.05}
    cloned = baselines.train(
        "bc", model, TOKENIZER, episodes, None, arguments(folder, **options), length=LENGTH
    )
    return SimpleNamespace(games=games, episodes=episodes, pi=cloned.behavior, folder=folder)


def train(problem, *, folder=None, episodes=None, callbacks=(), resume=False, own=None, **changes):
    return baselines.train(
        "q_transformer",
        problem.pi,
        TOKENIZER,
        episodes or problem.episodes,
        problem.episodes.select(range(20)),
        arguments(folder or problem.folder, **changes),
        length=LENGTH,
        callbacks=callbacks,
        resume=resume,
        **own or {},
    )


@torch.no_grad()
def learned(trained, words):
    contexts = torch.tensor(ids(words))[:, None]
    return trained.values(contexts).logits[:, 0, ids(words)].double().numpy()


def errors(trained, exact):
    """Where tokens are choices of contexts that the data have: (words, words), else 0."""
    kind = np.array([0] * PLACES + [1] * len(FIRST) + [2] * len(SECOND))
    inside = (kind[None] == kind[:, None] + 1) & (exact.counts.sum(1, keepdims=True) > 0)
    return np.where(inside, np.abs(learned(trained, exact.words) - exact.q), 0)
