"""What the chunked loss costs beside what one would otherwise write: ``python -m benchmarks.loss``.

Every time is of a forward and a backward pass on the CPU; ratios are those of `benchmarks.common`.

Memory is workspace: the peak of what is allocated in a forward and backward pass and freed again,
so neither inputs nor gradients count. The profiler reports each allocation, so it is exact.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.common import interleaved_seconds, ratio, record, row, start
from qsft_lite.loss.linear import _LinearCrossEntropy, linear_q_sft_loss

SMOKE = {
    "vocabulary": 500,
    "small hidden": 8,
    "small tokens": 300,
    "large hidden": 16,
    "large tokens": 300,
    "memory tokens": 1024,
    "repetitions": 3,
}
LAPTOP = {
    "vocabulary": 50_257,  # that of GPT-2
    "small hidden": 64,
    "small tokens": 1024,
    "large hidden": 768,  # that of the smallest GPT-2
    "large tokens": 512,
    "memory tokens": 1024,  # GPT-2's context
    "repetitions": 20,
}

Loss = Callable[[], torch.Tensor]


def losses_on_hidden_states(
    tokens: int, hidden_size: int, vocabulary: int
) -> tuple[dict[str, Loss], list]:
    """Losses of the same hidden states (tokens, hidden_size), and the tensors that get gradients.

    "plain cross-entropy" is by the same chunked kernel. "naive" holds all logits and Eq. 3's target
    distribution, as a straightforward implementation does. "matrix products" are those alone that
    each of the others needs, in chunks: no chunked loss can be faster.
    """
    hidden = torch.randn(tokens, hidden_size, requires_grad=True)
    weight = (torch.randn(vocabulary, hidden_size) / hidden_size**0.5).requires_grad_()
    actions = torch.randint(vocabulary - 1, (tokens,))
    target = torch.rand(tokens)
    chunk_size = linear_q_sft_loss.__kwdefaults__["chunk_size"]
    ones = torch.ones(tokens, 1)

    def cross_entropy() -> torch.Tensor:
        return _LinearCrossEntropy.apply(
            hidden, weight, actions[:, None], ones, None, chunk_size, True
        )[0]

    def naive() -> torch.Tensor:
        logits = hidden @ weight.T
        others = (1 - target) / (vocabulary - 1)
        distribution = others[:, None].repeat(1, vocabulary)
        distribution.scatter_(1, actions[:, None], target[:, None])
        return torch.nn.functional.cross_entropy(logits, distribution)

    def products() -> torch.Tensor:
        with torch.no_grad():
            grad_weight = torch.zeros_like(weight)
            for chunk in hidden.split(chunk_size):
                logits = chunk @ weight.T
                logits @ weight
                grad_weight.addmm_(logits.T, chunk)
        return hidden.new_zeros((), requires_grad=True)

    losses = {
        "plain cross-entropy": cross_entropy,
        "uniform": lambda: linear_q_sft_loss(hidden, weight, actions, target, leftover="uniform"),
        "naive": naive,
        "matrix products": products,
    }
    return losses, [hidden, weight]


def gradients(loss: Loss, leaves: list[torch.Tensor]) -> tuple[torch.Tensor | None, ...]:
    """A forward and a backward pass."""
    return torch.autograd.grad(loss(), leaves, allow_unused=True)


def workspace_bytes(loss: Loss, leaves: list[torch.Tensor]) -> int:
    """Peak bytes that a forward and backward pass allocates and frees again, on the CPU."""
    return peak_bytes(partial(gradients, loss, leaves), count_kept=False)


def peak_bytes(call: Callable[[], object], *, count_kept: bool) -> int:
    """Peak bytes that a call allocates on the CPU, with or without those that outlive it."""
    for _ in range(2):  # the first call warms up
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            _kept = call()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        trace = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    events = [event["args"] for event in trace if event.get("name") == "[memory]"]
    events.sort(key=lambda event: event["Ev Idx"])

    changes = []
    allocated: dict[int, int] = {}  # address -> index into changes
    for event in events:
        size, address = event["Bytes"], event["Addr"]
        if size > 0:
            allocated[address] = len(changes)
        elif allocated.pop(address, None) is None:
            continue  # freed here, but allocated before
        changes.append(size)
    for index in allocated.values() if not count_kept else ():  # never freed: the gradients
        changes[index] = 0
    return int(max(np.cumsum(changes)))


def compare(settings: dict[str, int]) -> tuple[list[dict], dict]:
    """The rows of the table, and what they were made from."""
    vocabulary, repetitions = settings["vocabulary"], settings["repetitions"]
    rows: list[dict] = []
    raw: dict[str, dict] = {}

    for size in ("small", "large"):
        tokens, hidden = settings[f"{size} tokens"], settings[f"{size} hidden"]
        losses, leaves = losses_on_hidden_states(tokens, hidden, vocabulary)
        passes = {name: partial(gradients, loss, leaves) for name, loss in losses.items()}
        seconds = interleaved_seconds(passes, repetitions)
        raw[f"seconds at hidden size {hidden}"] = seconds
        for what, goal in (
            ("uniform / plain cross-entropy", 1.05),
            ("uniform / naive", 0.6),
            ("matrix products / naive", None),
        ):
            value = ratio(*(seconds[name] for name in what.split(" / ")))
            rows.append(row(f"time: chunked {what}", tokens, hidden, value, goal))

        tokens = settings["memory tokens"]
        losses, leaves = losses_on_hidden_states(tokens, hidden, vocabulary)
        workspace = {name: workspace_bytes(losses[name], leaves) for name in ("uniform", "naive")}
        raw[f"workspace bytes at hidden size {hidden}"] = workspace
        value = workspace["uniform"] / workspace["naive"]
        rows.append(row("memory: chunked uniform / naive", tokens, hidden, value, 0.1))
    return rows, raw


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own messages
    run = replace(start("loss", arguments, SMOKE, LAPTOP), device=torch.device("cpu"))
    rows, raw = compare(run.settings)
    headline = {
        f"{row['ratio']}, {row['tokens']} tokens, hidden size {row['hidden size']}": row[
            "median [95 % interval]"
        ]
        for row in rows
    }
    record(run, rows, headline, raw)
    print("Every chunked loss needs the matrix products: their row is the floor of the one above.")


if __name__ == "__main__":
    main()
