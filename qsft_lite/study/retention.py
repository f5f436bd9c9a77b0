"""What is left of a pretrained model's knowledge after training: general text, facts, grammar.

    text        mean of -log p(token | all before it), in nats, over texts that no task has
    kl          mean of KL(p_pretrained || p), in nats a token, over the same texts
    facts, grammar    share of pairs "beginning, right, wrong" of which right is the likelier one

The texts are passages of the Python language reference, which comes with Python itself
(pydoc_data.topics, under the PSF licence), so they differ a little between versions of Python. The
pairs, in words/facts.tsv, are ours.
"""

from __future__ import annotations

import csv
import re
from importlib.resources import files
from pydoc_data.topics import topics
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from qsft_lite.data import start_id
from qsft_lite.models import final_hidden, output_head

__all__ = ["Pair", "Retention", "measure_retention", "passages", "probe_pairs"]


class Pair(NamedTuple):
    """A beginning of a text, and two ways to go on; kind is "fact" or "grammar"."""

    kind: str
    beginning: str
    right: str
    wrong: str


class Retention(NamedTuple):
    """See the module: nats a token, nats a token, and two shares in [0, 1]."""

    text: float
    kl: float
    facts: float
    grammar: float


def probe_pairs() -> list[Pair]:
    """All pairs, facts first."""
    path = files("qsft_lite.study") / "words" / "facts.tsv"
    with path.open(encoding="utf-8") as lines:
        return [Pair(**row) for row in csv.DictReader(lines, delimiter="\t")]


def passages(count: int, *, words: int = 80) -> list[str]:
    """The beginnings, so many words each, of paragraphs of the language reference, evenly spread.

    ValueError for more than there are.
    """
    paragraphs = {
        " ".join(paragraph.split()[:words]): None  # a paragraph may stand under several topics
        for _, text in sorted(topics.items())
        for paragraph in re.split(r"\n\s*\n", text)
        # Prose begins at the margin; headings have rows of stars, grammar has "::=".
        if paragraph[:1].isupper() and "***" not in paragraph and "::=" not in paragraph
        if len(paragraph.split()) >= words
    }
    if count > len(paragraphs):
        raise ValueError(f"there are {len(paragraphs)} passages, not {count}")
    return [[*paragraphs][i * len(paragraphs) // count] for i in range(count)]


@torch.inference_mode()
def measure_retention(
    model: PreTrainedModel,
    pretrained: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    texts: int = 12,
    pairs: int | None = None,
) -> Retention:
    """A model beside the one that it began as. texts: passages; pairs: of each kind, None for all.

    Both have the tokenizer's vocabulary; rows of further tokens, such as a dummy, are left out.
    """
    losses, divergences = [], []
    for text in passages(texts):
        ids = [start_id(tokenizer), *tokenizer(text, add_special_tokens=False).input_ids]
        log_p, reference = (_log_p(one, ids, len(tokenizer)) for one in (model, pretrained))
        taken = torch.tensor(ids[1:], device=log_p.device)[:, None]
        losses.append(-log_p.gather(1, taken)[:, 0])
        divergences.append((reference.exp() * (reference - log_p)).sum(-1))
    shares = {}
    for kind in ("fact", "grammar"):
        chosen = [pair for pair in probe_pairs() if pair.kind == kind][:pairs]
        ends = [(pair.beginning, end) for pair in chosen for end in (pair.right, pair.wrong)]
        right, wrong = _log_p_of_ends(model, tokenizer, ends).view(-1, 2).unbind(1)
        shares[kind] = float((right > wrong).float().mean())
    text, kl = (float(torch.cat(each).mean()) for each in (losses, divergences))
    return Retention(text, kl, shares["fact"], shares["grammar"])


def _log_p(model: PreTrainedModel, ids: list[int], vocabulary: int) -> torch.Tensor:
    """Log-probabilities (L - 1, V) float32 of what follows each token but the last."""
    row = torch.tensor([ids[:-1]], device=next(model.parameters()).device)
    positions = torch.arange(row.shape[1], device=row.device)[None]
    hidden = final_hidden(model, row, positions, torch.ones_like(row))[0]
    return output_head(model)(hidden)[:, :vocabulary].float().log_softmax(-1)


def _log_p_of_ends(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[tuple[str, str]]
) -> torch.Tensor:
    """log p(end | beginning) (N,), nats; tokenized apart, as a state and an action are."""
    before, after = (
        [tokenizer(part, add_special_tokens=False).input_ids for part in parts]
        for parts in zip(*texts, strict=True)
    )
    rows = [[start_id(tokenizer), *b, *a] for b, a in zip(before, after, strict=True)]
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    ids = ids.to(next(model.parameters()).device)
    real = (
        torch.arange(longest, device=ids.device) < torch.tensor([len(row) for row in rows])[:, None]
    )
    positions = torch.arange(longest, device=ids.device).expand_as(ids)
    hidden = final_hidden(model, ids, positions, real.long())
    found = []
    for row, states, end in zip(rows, hidden, after, strict=True):
        place = slice(len(row) - len(end) - 1, len(row) - 1)
        log_p = output_head(model)(states[place])[:, : len(tokenizer)].float().log_softmax(-1)
        found.append(log_p.gather(1, torch.tensor(end, device=ids.device)[:, None]).sum())
    return torch.stack(found)
