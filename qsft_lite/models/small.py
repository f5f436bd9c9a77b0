"""Small models from scratch, and embeddings that start from what words have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from qsft_lite.data.transcripts import start_id


def small_model(
    tokenizer: PreTrainedTokenizerBase,
    *,
    layers: int,
    width: int,
    heads: int,
    context: int,
    seed: int,
) -> LlamaForCausalLM:
    """A new causal transformer of the Llama kind: rotary positions, tied embeddings, no dropout.

    Args:
        tokenizer: its tokens become the vocabulary.
        layers: number of layers.
        width: hidden size; the feed-forward layers have 8/3 of it, to a multiple of 8.
        heads: attention heads; each has width / heads dimensions, an even number.
        context: longest episode, in tokens.
        seed: of the weights. The global random state stays as it is.
    """
    if width % (2 * heads):
        raise ValueError(f"width must be a multiple of 2 * heads = {2 * heads}, not {width}.")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=8 * round(width / 3),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        attention_dropout=0.0,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=start_id(tokenizer),
        eos_token_id=None,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


@torch.no_grad()
def share_embeddings(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    parts: Mapping[str, Sequence[tuple]],
    *,
    seed: int,
    scale: float = 0.1,
) -> None:
    """Start the embedding of each word as the sum of its parts' vectors.

    What words have in common, such as a letter, or a rank of the board, is then a vector that their
    embeddings have in common. They are trained on as ever.

    Args:
        model: its embeddings are changed in place, and so is its head where the two are tied.
        tokenizer: has every word as one token, or a ValueError is raised.
        parts: of each word, names of its parts: tuples that can be sorted.
        seed: of the vectors. They are orthogonal where the width has room for all.
        scale: standard deviation of a word's embedding.
    """
    known = tokenizer.get_vocab()
    for word in parts:
        if word not in known:
            raise ValueError(f"{word!r} is not one token of this tokenizer.")
    names = sorted({name for own in parts.values() for name in own})
    embedding = model.get_input_embeddings().weight
    width = embedding.shape[1]
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.empty(max(width, len(names)), width)
    if len(names) <= width:
        nn.init.orthogonal_(vectors, generator=generator)
    else:
        nn.init.normal_(vectors, std=width**-0.5, generator=generator)
    vector = dict(zip(names, vectors, strict=False))
    for word, own in parts.items():
        total = torch.stack([vector[name] for name in own]).sum(0)
        embedding[known[word]] = total * scale * (width / len(own)) ** 0.5
