"""What playing pi_hat costs beside two models' generate(): ``python -m benchmarks.decode``.

pi_hat needs the logits of two models for each token. The peer is what one would otherwise write: a
cached generate() of the one model, then one of the other, with the same batch, prompt and number of
tokens; it does not even combine the two. Against it are timed

    two models            pi_hat of two whole models
    adapters of one base  pi_hat of two adapters of LoRA, in one pass
    distilled             a policy of one network, as one that has learned to play as pi_hat does

Ratios are those of `benchmarks.common`; above 1, the policy is the faster.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.common import Sides, interleaved_seconds, ratio, record, start
from qsft_lite.data.encoding import start_id
from qsft_lite.models import share_base, small_model, smollm2, word_tokenizer
from qsft_lite.policy import QSFTPolicy
from qsft_lite.tasks.twenty_questions.pretrained import with_adapters

SMOKE = {
    "models": [{"layers": 1, "width": 16, "heads": 2, "vocabulary": 50, "rank": 4}],
    "batch": 2,
    "prompt tokens": 8,
    "new tokens": 8,
    "repetitions": 3,
}
LAPTOP = {
    "models": [
        {"layers": 3, "width": 128, "heads": 4, "vocabulary": 64},  # Wordle by character
        {"layers": 4, "width": 256, "heads": 8, "vocabulary": 2048},
        {"name": "SmolLM2-135M", "rank": 16, "repetitions": 4},  # half a minute each
    ],
    "batch": 8,
    "prompt tokens": 32,
    "new tokens": 32,
    "repetitions": 10,
}
GPU = {
    **LAPTOP,
    "models": [
        *LAPTOP["models"],
        {"layers": 12, "width": 768, "heads": 12, "vocabulary": 50_257},  # the smallest GPT-2's
    ],
}
GOALS = {"two models": 1.4, "adapters of one base": 1.9, "distilled": 3.5}
GPU_GOAL = 4.0  # of all of them


class Endless(QSFTPolicy):
    """pi_hat that ends no action before max_new_tokens: both sides write the same number."""

    def log_weights(self, logits: list[torch.Tensor], *ruled_out: torch.Tensor) -> torch.Tensor:
        """pi_hat's, with tokens that would end the action made as good as impossible."""
        return super().log_weights(logits, *ruled_out) - 1e4 * self._stops.ends


def networks(
    shape: dict[str, Any], context: int
) -> tuple[PreTrainedTokenizerBase, list[PreTrainedModel]]:
    """A tokenizer, and pi and p."""
    if "name" in shape:
        first, tokenizer = smollm2()
        return tokenizer, [first, copy.deepcopy(first)]
    # Beside the three special tokens and the newline.
    words = "".join(f"w{i} " for i in range(shape["vocabulary"] - 4))
    tokenizer = word_tokenizer(f"{words}\n")
    size = {name: shape[name] for name in ("layers", "width", "heads")}
    return tokenizer, [
        small_model(tokenizer, **size, context=context, seed=seed).eval() for seed in (0, 1)
    ]


def sides(shape: dict[str, Any], settings: dict[str, Any], device: torch.device) -> Sides:
    """The policies and their peer, each writing the same number of tokens after one prompt."""
    new_tokens, batch = settings["new tokens"], settings["batch"]
    tokenizer, models = networks(shape, settings["prompt tokens"] + new_tokens)
    options = {"beta": 1.0, "score": "paired", "max_new_tokens": new_tokens}
    policies = {
        "two models": Endless(*(model.to(device) for model in models), tokenizer, **options),
        "distilled": Endless(models[0], None, tokenizer, 0.0, max_new_tokens=new_tokens),
    }
    if rank := shape.get("rank"):
        adapted = [with_adapters(models[0], rank, seed).eval() for seed in (0, 1)]
        policies["adapters of one base"] = Endless(*share_base(*adapted), tokenizer, **options)
    ids = torch.arange(settings["prompt tokens"] - 1) % (len(tokenizer) // 2) + len(tokenizer) // 4
    text = tokenizer.decode(ids)
    prompt = torch.tensor([[start_id(tokenizer), *tokenizer(text).input_ids]], device=device)
    prompt = prompt.repeat(batch, 1)

    def play(policy: Endless) -> None:
        policy.reset(0)
        policy.act([text] * batch)
        generated = policy.transcript_tokens - prompt.numel()
        if generated != batch * new_tokens:
            raise RuntimeError(f"pi_hat wrote {generated} tokens, not as many as its peer.")

    @torch.inference_mode()
    def two_generate_calls() -> None:
        for model in models:
            model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=True,
                top_k=0,
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                pad_token_id=tokenizer.pad_token_id,
            )
        if device.type == "cuda":
            torch.cuda.synchronize()

    played = {name: lambda policy=policy: play(policy) for name, policy in policies.items()}
    return {**played, "two generate() calls": two_generate_calls}


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    run = start("decode", arguments, SMOKE, LAPTOP, GPU)
    rows, raw, headline = [], {}, {}
    tokens = run.settings["batch"] * run.settings["new tokens"]
    for shape in run.settings["models"]:
        name = shape.get("name") or f"{shape['layers']} layers, width {shape['width']}"
        repetitions = shape.get("repetitions", run.settings["repetitions"])
        seconds = raw[name] = interleaved_seconds(
            sides(shape, run.settings, run.device), repetitions
        )
        peer = seconds["two generate() calls"]
        for policy in (one for one in GOALS if one in seconds):
            speedup = ratio(peer, seconds[policy])
            goal = GPU_GOAL if run.device.type == "cuda" else GOALS[policy]
            rows.append(
                {
                    "models": name,
                    "vocabulary": shape.get("vocabulary", 49_152),
                    "policy": policy,
                    "tokens/s": round(tokens / float(np.median(seconds[policy]))),
                    "two generate() calls / policy [95 % interval]": speedup,
                    "goal": goal,
                    "met": "yes" if speedup["mean"] >= goal else "no",
                }
            )
            headline[f"two generate() calls / {policy}, {name}"] = speedup
    record(run, rows, headline, raw)


if __name__ == "__main__":
    main()
