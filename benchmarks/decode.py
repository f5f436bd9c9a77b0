"""What playing pi_hat costs beside two models' generate(): ``python -m benchmarks.decode``.

pi_hat needs the logits of two models for each token. The peer is what one would otherwise write: a
cached generate() of the one model, then one of the other, with the same batch, prompt and number of
tokens; it does not even combine the two. Ratios are those of `benchmarks.common`; above 1, pi_hat
is the faster.
"""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.common import Sides, interleaved_seconds, ratio, record, start
from qsft_lite.data.encoding import start_id
from qsft_lite.models import small_model, word_tokenizer
from qsft_lite.policy import QSFTPolicy

SMOKE = {
    "models": [{"layers": 1, "width": 16, "heads": 2, "vocabulary": 50}],
    "batch": 2,
    "prompt tokens": 8,
    "new tokens": 8,
    "repetitions": 3,
}
LAPTOP = {
    "models": [
        {"layers": 3, "width": 128, "heads": 4, "vocabulary": 64},  # Wordle by character
        {"layers": 4, "width": 256, "heads": 8, "vocabulary": 2048},
    ],
    "batch": 8,
    "prompt tokens": 32,
    "new tokens": 64,
    "repetitions": 20,
}
GPU = {
    **LAPTOP,
    "models": [
        *LAPTOP["models"],
        {"layers": 12, "width": 768, "heads": 12, "vocabulary": 50_257},  # the smallest GPT-2's
    ],
}


class Endless(QSFTPolicy):
    """pi_hat that ends no action before max_new_tokens: both sides write the same number."""

    def log_weights(self, logits: list[torch.Tensor], *ruled_out: torch.Tensor) -> torch.Tensor:
        """pi_hat's, with tokens that would end the action made as good as impossible."""
        return super().log_weights(logits, *ruled_out) - 1e4 * self._stops.ends


def sides(shape: dict[str, int], settings: dict, device: torch.device) -> Sides:
    """pi_hat and its peer, each writing the same number of tokens after the same prompt."""
    words = shape["vocabulary"] - 4  # beside the three special tokens and the newline
    tokenizer = word_tokenizer("".join(f"w{i} " for i in range(words)) + "\n")
    new_tokens = settings["new tokens"]
    models = [
        small_model(
            tokenizer,
            layers=shape["layers"],
            width=shape["width"],
            heads=shape["heads"],
            context=settings["prompt tokens"] + new_tokens,
            seed=seed,
        )
        .eval()
        .to(device)
        for seed in (0, 1)
    ]
    policy = Endless(*models, tokenizer, beta=1.0, score="ratio", max_new_tokens=new_tokens)
    text = "".join(f"w{i % words} " for i in range(settings["prompt tokens"] - 1))
    prompt = torch.tensor([[start_id(tokenizer), *tokenizer(text).input_ids]], device=device)
    prompt = prompt.repeat(settings["batch"], 1)

    def pi_hat() -> None:
        policy.reset(0)
        policy.act([text] * settings["batch"])
        generated = policy.transcript_tokens - prompt.numel()
        if generated != settings["batch"] * new_tokens:
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

    return {"pi_hat": pi_hat, "two generate() calls": two_generate_calls}


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    run = start("decode", arguments, SMOKE, LAPTOP, GPU)
    goal = 4.0 if run.device.type == "cuda" else 1.4

    rows, raw, headline = [], {}, {}
    for shape in run.settings["models"]:
        name = f"{shape['layers']} layers, width {shape['width']}"
        seconds = raw[name] = interleaved_seconds(
            sides(shape, run.settings, run.device), run.settings["repetitions"]
        )
        speedup = ratio(seconds["two generate() calls"], seconds["pi_hat"])
        tokens = run.settings["batch"] * run.settings["new tokens"]
        rows.append(
            {
                "models": name,
                "vocabulary": shape["vocabulary"],
                "pi_hat, tokens/s": round(tokens / float(np.median(seconds["pi_hat"]))),
                "two generate() calls / pi_hat [95 % interval]": speedup,
                "goal": goal,
                "met": "yes" if speedup["mean"] >= goal else "no",
            }
        )
        headline[f"two generate() calls / pi_hat, {name}"] = speedup
    record(run, rows, headline, raw)


if __name__ == "__main__":
    main()
