"""Online adaptation: a learned policy plays, learns from its own games too, and plays again.

In each round a policy plays new games, which are added to all earlier ones, and its method learns
on from all of them. What becomes of pi is the point (chapter 14): "frozen", it stays the first
clone, and Q-SFT's values go on from where they are; "distil", it becomes the policy that has just
played, in one network, and values begin anew from it; "best", pi is all there is, and is cloned on
from the best games.

python -m qsft_lite.study.online wordle --profile record
python -m qsft_lite.study.online endgames --profile record
python -m qsft_lite.study.online alfworld --profile record
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import zlib
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from scipy import stats

from qsft_lite.baselines import TrainedMethod, train
from qsft_lite.baselines.choosing import choose
from qsft_lite.baselines.episodes import best_episodes
from qsft_lite.evaluate import evaluate
from qsft_lite.files import replace_file
from qsft_lite.results import project_root, start
from qsft_lite.study.rows import COARSE_BETAS, COARSE_TEMPERATURES
from qsft_lite.study.run import module_of
from qsft_lite.study.settings import changed
from qsft_lite.study.task import Task

__all__ = [
    "LEARNERS",
    "PROFILES",
    "Learner",
    "OnlineSettings",
    "first_methods",
    "online_rounds",
    "table",
    "task_of",
]

# A coarse grid that reaches the sharpened clone, too, so that values are no burden in round 0.
BETAS = {**COARSE_BETAS, "relative_support": (0.2, 0.5, 0.9)}
PLAY_SEED = 4_000  # of the games that are added: round k of seed s has PLAY_SEED + 100 s + k


@dataclasses.dataclass(frozen=True)
class Learner:
    """How to go on.

    method: "q_sft", "ilql", or "bc". pi: "frozen", "distil", or of bc "best". beta: by which a
    method with values plays the games that are added, and is distilled; clones play at temperature
    1. pi_share: of the steps of a round's pi.
    """

    title: str
    method: str
    pi: str
    beta: float = 32.0
    pi_share: float = 1.0


LEARNERS = {
    "frozen": Learner("Q-SFT, pi frozen", "q_sft", "frozen"),
    "distil": Learner("Q-SFT, pi distilled", "q_sft", "distil"),
    "distil_softly": Learner("Q-SFT, pi distilled at beta 8", "q_sft", "distil", beta=8.0),
    "ilql": Learner("ILQL, pi frozen", "ilql", "frozen"),
    "ilql_distil": Learner("ILQL, pi distilled", "ilql", "distil"),
    "own_best": Learner("Cloning its own best games", "bc", "best"),
    "own_best_briefly": Learner("Own best, in a tenth of the steps", "bc", "best", pi_share=0.1),
}
FOUR = ("frozen", "distil", "ilql", "own_best")


@dataclasses.dataclass(frozen=True)
class OnlineSettings:
    """What the rounds are set by.

    task: one with a study; own: what to change of its profile "record", besides the numbers here.
    first_games: of round 0, recorded by the data's player. games: added in each of the rounds after
    it. clone_steps: of the first pi; pi_steps, value_steps: of a round. relative_support: of
    methods with values in the games that are added, and in distilling. fraction: of all games so
    far, the best ones, that are cloned. validation_games, test_games: of each evaluation; they are
    not learned from. learners: keys of LEARNERS.
    """

    task: str = "wordle"
    own: dict[str, Any] = dataclasses.field(
        default_factory=lambda: {"words": 20, "batch_rows": 8, "even_starts": True}
    )
    first_games: int = 2_000
    rounds: int = 5
    games: int = 800
    clone_steps: int = 400
    pi_steps: int = 400
    value_steps: int = 300
    relative_support: float = 0.2
    fraction: float = 0.2
    seeds: int = 3
    validation_games: int = 100
    test_games: int = 400
    learners: tuple[str, ...] = FOUR


WORDLE = OnlineSettings(learners=(*FOUR, "distil_softly", "own_best_briefly"))
ENDGAMES = OnlineSettings(
    "endgames",
    own={
        "materials": "Q",
        "width": 64,
        "batch_rows": 8,
        "row_tokens": 128,
        "learning_rate": 5e-3,
        "longest_recorded": 40,
        "longest_game": 40,
    },
    first_games=8_000,
    games=400,
    clone_steps=600,
    pi_steps=300,
    value_steps=150,
    validation_games=50,
    test_games=162,
)
ALFWORLD = OnlineSettings(
    "alfworld",
    own={"rooms": "bathroom", "wanderers": 0.25},
    first_games=2_000,
    games=200,
    clone_steps=400,
    pi_steps=100,
    value_steps=100,
    validation_games=46,
    test_games=122,
)
TINY = {"layers": 1, "width": 16}
ONE = {"rounds": 1, "seeds": 1, "learners": ("distil",)}
GAMES = {"first_games": 100, "games": 20, "validation_games": 4, "test_games": 8}
STEPS = {"clone_steps": 4, "pi_steps": 3, "value_steps": 4}
PROFILES: dict[str, dict[str, OnlineSettings]] = {
    one.task: {
        "smoke": dataclasses.replace(one, own=one.own | TINY, **GAMES, **STEPS, **ONE),
        "laptop": dataclasses.replace(one, clone_steps=100, pi_steps=20, value_steps=60, **ONE),
        "record": one,
        "gpu": dataclasses.replace(one, rounds=10, seeds=5),
    }
    for one in (WORDLE, ENDGAMES, ALFWORLD)
}
"""Of each task its profiles."""


def task_of(settings: OnlineSettings, seed: int) -> Task:
    """The task of one seed: its games are those of round 0."""
    module = module_of(settings.task)
    changes = {name: getattr(settings, name) for name in ("validation_games", "test_games")}
    changes |= {"games": settings.first_games, "threads": 1}
    changes |= {"warmup_steps": 20, "value_warmup_steps": 20}
    return module.TASK(changed(module.PROFILES["record"], changes | settings.own), seed)


def first_methods(task: Task, settings: OnlineSettings) -> dict[str, TrainedMethod]:
    """Round 0, offline: behavior cloning, and from it the methods of the learners, by their keys.

    Learners of one method begin with the same networks.
    """
    cloned = _train(task, "bc", task.model, task.episodes, settings.clone_steps)
    found = {"bc": cloned}
    for method in {LEARNERS[key].method: None for key in settings.learners}:
        if method != "bc":
            steps = settings.value_steps
            found[method] = _train(task, method, cloned.behavior, task.episodes, steps)
    return found


def online_rounds(
    task: Task, learner: Learner, settings: OnlineSettings, first: TrainedMethod
) -> list[dict[str, Any]]:
    """All rounds of one learner with one seed.

    Args:
        task: see ``task_of``.
        learner: how it goes on.
        settings: for how long.
        first: its method in round 0, of ``first_methods``.

    Returns:
        A dict a round: "round"; "games" it has learned from; "played", mean score of the games that
        it has added (None in round 0); "score" of the test games, with options that validation
        games chose; "rank", the first rank correlation of its values that the task measures, such
        as with returns on games of the data's player; and "stale", the same of the earlier network
        of q read against the new pi (None where there is no such thing).
    """
    episodes, trained, found = task.episodes, first, []
    for number in range(settings.rounds + 1):
        played = stale = None
        if number:
            played, newest = _play(task, learner, trained, settings, number)
            episodes = datasets.concatenate_datasets([episodes, newest])
            trained, stale = _learn_on(task, learner, settings, trained, episodes)
        grid = COARSE_TEMPERATURES if trained.values is None else BETAS
        choice = choose(_Validation(task, trained), grid, widenings=0)
        score = task.play(task.policy(trained, **choice.options), test=True).mean
        one = {"round": number, "games": len(episodes), "played": played, "score": score}
        found.append(
            one | {"rank": _rank(task, trained), "stale": stale, "options": choice.options}
        )
    return found


def _learn_on(
    task: Task,
    learner: Learner,
    settings: OnlineSettings,
    trained: TrainedMethod,
    episodes: datasets.Dataset,
) -> tuple[TrainedMethod, float | None]:
    """The method after a round, and how the earlier values rank where pi has moved."""
    pi_steps = max(1, round(settings.pi_steps * learner.pi_share))
    if learner.pi == "best":
        best = best_episodes(episodes, settings.fraction, seed=task.seed)
        return _train(task, "bc", trained.behavior, best, pi_steps), None
    begin: Any = trained.behavior
    options: dict[str, Any] = {}
    stale = None
    if learner.pi == "distil":
        policy = _acts(learner, settings)
        begin = _train(task, "q_sft_distilled", trained, episodes, pi_steps, **policy).behavior
        if learner.method == "q_sft":
            stale = _rank(task, dataclasses.replace(trained, behavior=begin))
    elif learner.method == "q_sft":
        begin, options = trained, {"returns_first": 0.0}
    steps = settings.value_steps
    return _train(task, learner.method, begin, episodes, steps, **options), stale


def _rank(task: Task, trained: TrainedMethod) -> float | None:
    measured = task.measure(trained).items()
    return next((value for name, value in measured if name.startswith("rank correlation")), None)


class _Validation:
    """Mean score of a policy's options on validation games."""

    def __init__(self, task: Task, trained: TrainedMethod):
        self.task, self.trained = task, trained

    def __call__(self, options: dict[str, Any]) -> float:
        return self.task.play(self.task.policy(self.trained, **options), test=False).mean


def _train(
    task: Task, method: str, begin: Any, episodes: datasets.Dataset, steps: int, **options: Any
) -> TrainedMethod:
    args = task.config("behavior" if method == "bc" else "values", max_steps=steps)
    length = task.settings.row_tokens
    return train(method, begin, task.tokenizer, episodes, None, args, length=length, **options)


def _acts(learner: Learner, settings: OnlineSettings) -> dict[str, Any]:
    """By which a method with values plays new games."""
    return {"beta": learner.beta, "relative_support": settings.relative_support}


def _play(
    task: Task, learner: Learner, trained: TrainedMethod, settings: OnlineSettings, number: int
) -> tuple[float, datasets.Dataset]:
    """Mean score of a round's new games, and the games, encoded."""
    options = {} if trained.values is None else _acts(learner, settings)
    policy = task.policy(trained, **options)
    seed = PLAY_SEED + 100 * task.seed + number
    result = evaluate(policy, task.env, settings.games, seed)
    return result.mean, task.encoded(datasets.Dataset.from_list(result.transcripts))


def table(found: dict[str, list[list[dict[str, Any]]]]) -> list[dict[str, Any]]:
    """A row a learner: its mean score by rounds, each seed's last one, and what it has gained.

    found: of each learner's title the rounds of each seed. The gain, last round less first, has the
    95 % interval of Student's t over seeds, where there are several.
    """
    rows = []
    for title, seeds in found.items():
        scores = np.array([[one["score"] for one in rounds] for rounds in seeds])
        row: dict[str, Any] = {"learner": title}
        row |= {f"round {number}": float(mean) for number, mean in enumerate(scores.mean(axis=0))}
        row["last round, each seed"] = ", ".join(f"{score:.2f}" for score in scores[:, -1])
        rows.append(row | {"last less first": _mean(scores[:, -1] - scores[:, 0])})
    return rows


def _mean(values: np.ndarray) -> Any:
    """With the interval of Student's t where there is more than one value."""
    if len(values) < 2:
        return float(values.mean())
    reach = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    mean = float(values.mean())
    return {"mean": mean, "low": float(mean - reach), "high": float(mean + reach)}


def run(task: str, profile: str, output: Path) -> None:
    """All learners with all seeds, from wherever the last call got to; recorded at the end.

    The rounds of a learner and seed are kept in a file of output, and read by the next call with
    the same settings.
    """
    settings = PROFILES[task][profile]
    profiles = {name: dataclasses.asdict(one) for name, one in PROFILES[task].items()}
    name = f"{task}_online"
    recorder = start(name, profile=profile, seed=0, threads=1, settings=profiles)
    learners = {key: LEARNERS[key] for key in settings.learners}
    found: dict[str, list[list[dict[str, Any]]]] = {one.title: [] for one in learners.values()}
    for seed in range(settings.seeds):
        game = task_of(settings, seed)
        first: dict[str, TrainedMethod] = {}
        for key, learner in learners.items():
            said = dataclasses.asdict(settings) | {
                "learners": dataclasses.asdict(learner),
                "seeds": 0,
            }
            code = zlib.crc32(json.dumps(said).encode())  # other settings, other rounds
            path = output / f"{name}.seed{seed}.{key}_{code:08x}.json"
            if not path.exists():
                first = first or first_methods(game, settings)
                rounds = online_rounds(game, learner, settings, first[learner.method])
                path.parent.mkdir(parents=True, exist_ok=True)
                replace_file(path, json.dumps(rounds).encode())
            found[learner.title].append(json.loads(path.read_text(encoding="utf-8")))
            print(seed, learner.title, [one["score"] for one in found[learner.title][-1]])
    levels = game.levels()
    rows = table(found)
    headline = {**levels, **{row["learner"]: row["last less first"] for row in rows}}
    recorder.record(headline=headline, tables={name: rows}, raw=found)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m qsft_lite.study.online")
    parser.add_argument("task", choices=sorted(PROFILES))
    parser.add_argument("--profile", choices=("smoke", "laptop", "record", "gpu"), default="laptop")
    parser.add_argument("--output", type=Path, default=project_root() / "build" / "online")
    options = parser.parse_args(arguments)
    told = f"python -m qsft_lite.study.online {options.task} --profile {options.profile}"
    os.environ.setdefault("QSFT_COMMAND", told)
    run(options.task, options.profile, options.output)


if __name__ == "__main__":
    datasets.disable_progress_bars()
    sys.stdout.reconfigure(line_buffering=True)
    main()
