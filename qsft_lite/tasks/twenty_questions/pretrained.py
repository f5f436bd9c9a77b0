"""What a pretrained model brings to Q-SFT, and what training leaves of it.

python -m qsft_lite.tasks.twenty_questions.pretrained tune --seeds 100
python -m qsft_lite.tasks.twenty_questions.pretrained retention --seeds 0 1 2
python -m qsft_lite.tasks.twenty_questions.pretrained all_weights --seeds 0 1
python -m qsft_lite.tasks.twenty_questions.pretrained low_data --seeds 0 1 2
python -m qsft_lite.tasks.twenty_questions.pretrained sizes --seeds 0 1 2

The problem is a choice between two objects (tasks.twenty_questions.which_one), whose values are
known exactly and of which a third of the objects are met in tests alone. Each row is one training:
where it began (SmolLM2, or a small network from scratch with the same tokens), what of it is
trained (LoRA's adapters, or all weights), and the method. Finished rows are kept, and read when the
command is called again.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import os
import shlex
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from qsft_lite.baselines import TrainedMethod, train
from qsft_lite.data import RewardScale, encode, start_id
from qsft_lite.files import replace_file
from qsft_lite.models import HeadedModel, load_model, small_model, smollm2
from qsft_lite.results import markdown_table, project_root, start
from qsft_lite.study.retention import Retention, measure_retention
from qsft_lite.study.tables import interval
from qsft_lite.tasks.twenty_questions.rules import Thing
from qsft_lite.tasks.twenty_questions.which_one import (
    OFFERED,
    Choice,
    choices,
    episodes,
    seen_and_unseen,
)
from qsft_lite.trainer import QSFTConfig

__all__ = [
    "Plan",
    "asked_of",
    "begin_with",
    "language_model",
    "measure",
    "measure_choices",
    "recorded_choices",
    "train_method",
    "with_adapters",
]

TEST_SEED, TUNING_SEED = 1_000, 2_000
# An episode has one decision, so its reward is the target: nothing is there to back up.
RETURNS = {"backup": "returns", "returns_first": 0.0}


class Row(NamedTuple):
    """A training: its method with its options, and whether it begins with the clone.

    The others begin with the network as it was before cloning. For Q-SFT this is also what values
    are read against, so that they keep what a clone of a random player forgets.
    """

    title: str
    method: str
    options: dict[str, Any]
    from_clone: bool = False


ROWS = {
    "none": Row("no training", "none", {}),
    "bc": Row("Behavior cloning", "bc", {}),
    "filtered_bc": Row("Filtered cloning", "filtered_bc", {"fraction": 1 / OFFERED}),  # the paid
    "q_sft": Row("Q-SFT (ours)", "q_sft", RETURNS),
    "q_sft_from_clone": Row("Q-SFT (ours), from the clone", "q_sft", RETURNS, from_clone=True),
    "q_sft_new_head": Row("Q-SFT, new head", "q_sft_new_head", RETURNS),
    "ilql": Row("ILQL", "ilql", {}),
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """One training.

    model: "smollm2", "scratch", or the folder or id of a causal language model. rank: of LoRA's
    adapters, which go into all linear layers but the head; 0 to train all weights. episodes:
    recorded choices, each met ``passes`` times. rate: of AdamW, for the method and for a clone that
    it begins with. asked: choices of each test. tuning: the objects of the test stay out of sight,
    and a third of the others takes their place.
    """

    model: str = "smollm2"
    rank: int = 16
    episodes: int = 400
    passes: float = 1.0
    rate: float = 1e-3
    batch_rows: int = 2
    row_tokens: int = 64
    layers: int = 2
    width: int = 64
    asked: int = 200
    tuning: bool = False


def begin_with(plan: Plan, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The network before any training, without adapters, and its tokenizer.

    One from scratch has SmolLM2's tokenizer, so that both read the same tokens.
    """
    if plan.model == "scratch":
        _, tokenizer = smollm2()
        shape = {"layers": plan.layers, "width": plan.width, "heads": 4, "context": 64}
        return small_model(tokenizer, **shape, seed=seed), tokenizer
    return smollm2() if plan.model == "smollm2" else load_model(plan.model)


def with_adapters(model: PreTrainedModel, rank: int, seed: int) -> PreTrainedModel:
    """A copy with new adapters of LoRA in all linear layers but the head; a plain one for rank 0.

    Raises ModuleNotFoundError, which says what to install, where peft is not.
    """
    model = copy.deepcopy(model)
    if not rank:
        return model
    try:
        import peft
    except ModuleNotFoundError:
        raise ModuleNotFoundError('LoRA needs peft: pip install "qsft-lite[lora]"') from None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
        with warnings.catch_warnings():  # of peft, about a name of transformers' that will go
            warnings.simplefilter("ignore", FutureWarning)
            return peft.get_peft_model(model, config)


def objects_of(plan: Plan) -> tuple[list[Thing], list[Thing]]:
    """The objects of the recorded choices, and those of tests alone."""
    seen, unseen = seen_and_unseen()
    return (
        ([one for one in seen if one not in seen[1::3]], seen[1::3])
        if plan.tuning
        else (seen, unseen)
    )


def recorded_choices(plan: Plan, tokenizer: PreTrainedTokenizerBase, seed: int) -> datasets.Dataset:
    """The episodes that all methods of a seed learn from, as tokens: seen objects alone."""
    seen, _ = objects_of(plan)
    asked = choices(plan.episodes, [seed, 0], seen)
    return encode(episodes(asked, [seed, 1]), tokenizer, scale=RewardScale(0, 1))


def asked_of(plan: Plan) -> dict[str, list[Choice]]:
    """The test: choices among objects of the training data, and among others; for all seeds."""
    parts = zip(("seen", "unseen"), objects_of(plan), strict=True)
    seed = TUNING_SEED if plan.tuning else TEST_SEED
    return {
        name: choices(plan.asked, [seed, place], things)
        for place, (name, things) in enumerate(parts)
    }


def train_method(
    key: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: datasets.Dataset,
    plan: Plan,
    seed: int,
) -> TrainedMethod:
    """One of ROWS, but "none", from these weights, which stay as they are."""
    row = ROWS[key]
    with tempfile.TemporaryDirectory() as folder:
        args = QSFTConfig(
            output_dir=folder,
            stage="behavior" if key == "bc" else "values",
            seed=seed,
            num_train_epochs=plan.passes,
            per_device_train_batch_size=plan.batch_rows,
            learning_rate=plan.rate,
            lr_scheduler_type="cosine",
            warmup_steps=10,
            logging_steps=0.1,
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
        )
        shared = (model, tokenizer, data, None, args)
        return train(row.method, *shared, length=plan.row_tokens, **row.options)


def measure_choices(trained: TrainedMethod, asked: Sequence[Choice]) -> dict[str, Any]:
    """How a method chooses, by what it says of the first token of each object on offer.

    right: 1 for each choice (N,) of the object that pays, by the largest value, or for a method
    without values by the largest pi; a tie counts as a guess. mass: what pi gives to the objects on
    offer, a mean; nats: of -log pi of their first tokens, which is what a clone of this player can
    be judged by. error: with values, mean of |q - Q*| over all objects on offer.
    """
    tokenizer = trained.tokenizer
    prefixes = [[start_id(tokenizer), *tokenizer(one.prompt).input_ids] for one in asked]
    first = [[tokenizer(action).input_ids[0] for action in one.actions] for one in asked]
    log_pi, values = trained.values_of(prefixes, first)
    found: dict[str, Any] = {
        "mass": float(np.exp(np.stack(log_pi)).sum(1).mean()),
        "nats": float(-np.stack(log_pi).mean()),
    }
    score = np.stack(log_pi if values is None else values)
    paid = np.eye(OFFERED)[[one.right for one in asked]]
    best = score == score.max(1, keepdims=True)
    found["right"] = ((best * paid).sum(1) / best.sum(1)).tolist()
    if values is not None:
        found["error"] = float(np.abs(score - paid).mean())
    return found


def language_model(trained: TrainedMethod, pretrained: PreTrainedModel) -> PreTrainedModel:
    """The network that was trained last, as a language model.

    New heads write no text, so the pretrained head is put on the transformer beneath them.
    """
    network = trained.values or trained.behavior
    if not isinstance(network, HeadedModel):
        return network
    whole = copy.deepcopy(pretrained)
    setattr(whole, whole.base_model_prefix, network.backbone)
    return whole.eval()


def measure(
    trained: TrainedMethod, pretrained: PreTrainedModel | None, plan: Plan
) -> dict[str, Any]:
    """Both tests, and of a pretrained model, where it is given, what is left (study.retention)."""
    found = {
        f"{name}_{test}": value
        for test, asked in asked_of(plan).items()
        for name, value in measure_choices(trained, asked).items()
    }
    if pretrained is None:
        return found
    left = measure_retention(language_model(trained, pretrained), pretrained, trained.tokenizer)
    return found | left._asdict()


# What is recorded

FULL_DATA = 400
# Chosen by ``tune``: log of 2026-11-27.
LORA_RATE, SCRATCH_RATE = 1e-3, 3e-3
ALL_RATES = {"bc": 1e-4, "filtered_bc": 2e-4, "q_sft": 1e-4}
Trainings = list[tuple[str, str, Plan]]


def trainings_of(kind: str) -> Trainings:
    """All rows of a table: name, method, plan."""
    scratch = Plan(model="scratch", rank=0, rate=SCRATCH_RATE, passes=10.0)
    learners = ("filtered_bc", "q_sft")
    adapted = ("bc", *learners, "q_sft_new_head", "ilql")
    found: Trainings = []
    if kind == "tune":
        for start_at, plan, rates, methods in (
            ("LoRA", Plan(), (5e-4, 1e-3, 2e-3), adapted),
            ("all weights", Plan(rank=0), (5e-5, 1e-4, 2e-4, 4e-4), tuple(ALL_RATES)),
            ("scratch", scratch, (1e-3, 3e-3, 1e-2), ("bc", *learners)),
        ):
            for rate in rates:
                tuned = dataclasses.replace(plan, rate=rate, tuning=True)
                found += [(f"{start_at}, {rate:g}", method, tuned) for method in methods]
    elif kind == "retention":
        found.append(("as it comes", "none", Plan(rank=0)))
        found += [
            ("LoRA", method, Plan(rate=LORA_RATE)) for method in (*adapted, "q_sft_from_clone")
        ]
    elif kind == "all_weights":
        found += [
            ("all weights", method, Plan(rank=0, rate=ALL_RATES[method])) for method in learners
        ]
    elif kind == "low_data":
        found.append(("as it comes", "none", Plan(rank=0)))
        for count in (40, 120, FULL_DATA):
            # Few data are met more than once, as anyone would.
            passes = max(1.0, 120 / count)
            plan = Plan(episodes=count, passes=passes, rate=LORA_RATE)
            found += [(f"SmolLM2, {count}", method, plan) for method in learners]
            plan = dataclasses.replace(scratch, episodes=count, passes=10.0 * passes)
            found += [(f"scratch, {count}", method, plan) for method in learners]
    else:
        for layers, width in ((1, 16), (2, 64), (4, 128)):
            plan = dataclasses.replace(scratch, layers=layers, width=width)
            found += [(f"{layers} layers, width {width}", method, plan) for method in learners]
        found += [("SmolLM2, LoRA", method, Plan(rate=LORA_RATE)) for method in learners]
    return found


def run_training(key: str, plan: Plan, seed: int, folder: Path) -> dict[str, Any]:
    """What was measured of a training: read where it is finished, otherwise worked out."""
    said = {"method": key, "seed": seed, "plan": dataclasses.asdict(plan)}
    path = folder / f"{key}_{seed}_{zlib.crc32(json.dumps(said).encode()):08x}.json"
    row = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if said.items() <= row.items():
        return row
    pretrained, tokenizer = begin_with(plan, seed)
    model = with_adapters(pretrained, plan.rank, seed)
    data = recorded_choices(plan, tokenizer, seed)
    begun = time.perf_counter()
    if ROWS[key].from_clone:
        model = train_method("bc", model, tokenizer, data, plan, seed).behavior
    if key == "none":
        trained = TrainedMethod.cloned(pretrained, tokenizer)
    else:
        trained = train_method(key, model, tokenizer, data, plan, seed)
    seconds = time.perf_counter() - begun
    weights = sum(weight.numel() for weight in pretrained.parameters())
    kept = None if plan.model == "scratch" or plan.tuning else pretrained
    row = {**said, "weights": weights, "seconds": seconds, **measure(trained, kept, plan)}
    replace_file(path, json.dumps(row).encode())
    print({n: v for n, v in row.items() if not isinstance(v, (list, dict))}, flush=True)
    return row


def table_of(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each name and method; intervals are over seeds and choices, see ``interval``.

    Two columns say what a row has more than the model as it comes, where the table has it, and than
    filtered cloning of the same name, with the intervals of paired differences.
    """
    found = []
    for name, method in dict.fromkeys((row["name"], row["method"]) for row in rows):
        same = [row for row in rows if (row["name"], row["method"]) == (name, method)]
        line: dict[str, Any] = {"training": name, "method": ROWS[method].title}
        line["weights"] = f"{same[0]['weights']:,}"
        line |= {
            f"right, {test} objects": interval(np.array([row[f"right_{test}"] for row in same]))
            for test in ("seen", "unseen")
        }
        for other in ("none", "filtered_bc"):
            rival = [row for row in rows if row["method"] == other]
            rival = [row for row in rival if other == "none" or row["name"] == name]
            line[f"unseen, less {ROWS[other].title.lower()}"] = _difference(same, rival)
        for key in ("nats_unseen", "error_seen", "error_unseen", *Retention._fields, "seconds"):
            known = [row[key] for row in same if key in row]
            line[key.replace("_", ", ")] = float(np.mean(known)) if known else None
        found.append(line | {"seeds": len(same)})
    empty = [key for key in found[0] if all(line[key] is None for line in found)]
    return [{key: value for key, value in line.items() if key not in empty} for line in found]


def _difference(
    rows: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]
) -> dict[str, float] | None:
    """Of choices about unseen objects, those right in rows less those right in others, paired."""
    theirs = {row["seed"]: row["right_unseen"] for row in others}
    if not theirs or rows[0]["method"] == others[0]["method"]:
        return None
    return interval(
        np.array([row["right_unseen"] for row in rows]) - [theirs[row["seed"]] for row in rows]
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    command = argparse.ArgumentParser(prog="python -m qsft_lite.tasks.twenty_questions.pretrained")
    command.add_argument("kind", choices=("tune", "retention", "all_weights", "low_data", "sizes"))
    command.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = sys.argv[1:] if arguments is None else arguments
    options = command.parse_args(arguments)
    told = f"python -m qsft_lite.tasks.twenty_questions.pretrained {shlex.join(arguments)}"
    os.environ.setdefault("QSFT_COMMAND", told)
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    trainings = trainings_of(options.kind)
    settings = {name: dataclasses.asdict(plan) for name, _, plan in trainings}
    profiles = dict.fromkeys(("smoke", "laptop", "record", "gpu"), {"plans": settings})
    name = f"pretrained_{options.kind}"
    recorder = start(name, profile="record", seed=0, settings=profiles, threads=1)
    folder = project_root() / "build" / "runs" / "pretrained"  # tables share rows
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"name": title, **run_training(method, plan, seed, folder)}
        for seed in options.seeds
        for title, method, plan in trainings
    ]
    table = table_of(rows)
    headline = {
        f"{line['training']}: {line['method']}": line["right, unseen objects"] for line in table
    }
    recorder.record(headline=headline, tables={name: table}, raw={"rows": rows})
    print(markdown_table(table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
