"""Language models that play by a prompt, untrained: ReAct, and acting without thoughts.

python -m qsft_lite.study.prompted alfworld --games 12
python -m qsft_lite.study.prompted webshop --model ID_OR_FOLDER --games 500

The games are of the task's whole test, evenly spread, each played once by the likeliest words, so
one run says it all. The result is recorded beside the studies'.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import sys
from typing import Any

import torch

from qsft_lite.baselines.registry import SHOWN
from qsft_lite.evaluate import evaluate
from qsft_lite.models import load_model, smollm2
from qsft_lite.results import markdown_table, start
from qsft_lite.study.run import module_of
from qsft_lite.study.tables import interval
from qsft_lite.study.task import TEST_SEED

__all__ = ["main", "play_prompted"]


def play_prompted(
    task: str, model: str, games: int, *, prompts: str | None = None, record: bool = True
) -> list[dict[str, Any]]:
    """A row for ReAct and one for acting alone, of so many test games of a task; recorded.

    task: "webshop" or "alfworld". model: "smollm2", or the id or folder of a causal language model.
    prompts: ReAct's own file of the task's prompts; ours if None.

    Raises ValueError for a task without prompts, and what loading the model or the prompts raises.
    """
    module = module_of(task)
    if not hasattr(module.TASK, "prompted"):
        raise ValueError(f"{task} has no prompts: a prompted model plays webshop and alfworld")
    if games < 2:
        raise ValueError(f"games must be at least 2, for an interval, not {games}")
    changes = {"format": "text", "test_games": games}
    # Of the profile that has all games: "record" may be about some of them.
    settings = dataclasses.replace(module.PROFILES["gpu"], **changes)
    told = {"model": model, "games": games, "prompts": prompts}
    profiles = dict.fromkeys(module.PROFILES, told)
    recorder = start(f"{task}_prompted", profile="record", seed=0, settings=profiles)
    own = module.TASK(settings, 0)
    network, tokenizer = smollm2() if model == "smollm2" else load_model(model)
    network.to("cuda" if torch.cuda.is_available() else "cpu")
    starts, rows, returns = own.starts(test=True), [], {}
    how = {"batch": len(starts), "options": starts}
    for key in ("react", "act_only"):
        policy = own.prompted(network, tokenizer, thinks=key == "react", prompts=prompts)
        result = evaluate(policy, own.env, len(starts), TEST_SEED, **how)
        returns[SHOWN[key].title] = result.returns.tolist()
        rows.append(
            {
                "method": SHOWN[key].title,
                "model": model,
                "games": len(starts),
                "score": interval(result.returns[None]),
                "wins": result.success,
                **own.describe(result),
            }
        )
    if record:
        headline = {row["method"]: row["score"] for row in rows}
        recorder.record(headline=headline, tables={recorder.name: rows}, raw={"returns": returns})
    return rows


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    command = argparse.ArgumentParser(prog="python -m qsft_lite.study.prompted")
    command.add_argument("task", help="webshop or alfworld")
    command.add_argument("--model", default="smollm2", help="smollm2, or an id or folder")
    command.add_argument("--games", type=int, default=12, help="of the test, evenly spread")
    command.add_argument("--prompts", help="ReAct's own file of prompts; ours without it")
    arguments = sys.argv[1:] if arguments is None else arguments
    options = command.parse_args(arguments)
    told = f"python -m qsft_lite.study.prompted {shlex.join(arguments)}"
    os.environ.setdefault("QSFT_COMMAND", told)
    try:
        rows = play_prompted(options.task, options.model, options.games, prompts=options.prompts)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print(markdown_table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
