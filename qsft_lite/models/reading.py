"""What training and play read from a model: hidden states of packed rows, the head, the masks."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from qsft_lite.models.episodes import attends_by_episode, by_episode, group_episodes
from qsft_lite.models.networks import active

# Layers that a mask can keep to one episode: transformers' names, and GPT-Neo's last.
MASKED_LAYERS = {"full_attention", "sliding_attention", "chunked_attention", "global", "local"}


# Families whose pixel_values have a row of pictures for each row of texts; here it is always one.
ROWS_OF_IMAGES = {"idefics2", "idefics3", "smolvlm"}


def output_head(model: PreTrainedModel) -> nn.Linear:
    """The linear layer from hidden states to logits.

    Raises TypeError where there is none, or the logits are changed after it (soft-cap or scale).
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
    **further: Any,
) -> torch.Tensor:
    """The hidden states (B, L, H) that the head reads, for rows that pack several episodes.

    A token attends to itself and to earlier tokens of its own segment only, so an episode's hidden
    states are those that it has alone. Padding (segment 0) attends to padding.

    Args:
        model: a causal language model of transformers, such as Llama or GPT-2.
        input_ids: (B, L), int64.
        position_ids: (B, L), int64, from 0 in each segment.
        segment_ids: (B, L), int64, 1, 2, ... for episodes and 0 for padding.
        further: such as pixel_values, float32 (n_images, 3, H, W), of all pictures in the order of
            the rows' image tokens; what the model does not take by its name is left out.

    Raises:
        ValueError: a model whose layers cannot be kept to a segment, see ``attention_mask``.
    """
    with active(model) as running, _within_segments(running, position_ids, segment_ids) as within:
        decoder = _decoder(running)
        if further:
            known = inspect.signature(getattr(decoder, "forward", decoder)).parameters
            further |= image_inputs(running, further.pop("pixel_values", None))
            further = {name: value for name, value in further.items() if name in known}
        hidden = decoder(
            input_ids=input_ids, position_ids=position_ids, use_cache=False, **within, **further
        ).last_hidden_state
        features = getattr(running, "features", None)  # of a NewHead, whose own layer is after it
        return hidden if features is None else features(hidden)


@contextmanager
def _within_segments(
    model: PreTrainedModel, position_ids: torch.Tensor, segment_ids: torch.Tensor
) -> Iterator[dict[str, Any]]:
    """The arguments by which a model's attention stays within segments, inside the context."""
    decoder, length = _decoder(model), segment_ids.shape[1]
    if attends_by_episode(decoder, length):
        groups = group_episodes(segment_ids)
        if 2 * groups.pairs <= segment_ids.numel() * length:  # else a mask costs less
            with by_episode(decoder, groups) as within:
                yield within
            return
    same_segment = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
    not_later = torch.ones(length, length, dtype=torch.bool, device=segment_ids.device).tril()
    allowed = same_segment & not_later
    yield {"attention_mask": attention_mask(model, allowed, position_ids, position_ids)}


def image_inputs(model: PreTrainedModel, pixel_values: torch.Tensor | None) -> dict[str, Any]:
    """Pictures (n_images, 3, H, W) as arguments of a model's forward; none where there are none.

    The rows may have any number of them each: all in order is what every model asks for.
    """
    if pixel_values is None:
        return {}
    if model.config.model_type in ROWS_OF_IMAGES:
        pixel_values = pixel_values[None]
    return {"pixel_values": pixel_values.to(model.dtype)}


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
    config = text_config(model)
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
    raise ValueError(f"attn_implementation must be 'sdpa' or 'eager', not {implementation!r}.")


def _layer_types(model: PreTrainedModel) -> set[str]:
    """The kinds of attention that the model's code makes masks for, by transformers' names."""
    config = text_config(model)
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
    code = vars(sys.modules[type(_text_decoder(model)).__module__])
    own = {
        "sliding_attention": "create_sliding_window_causal_mask" in code,
        "chunked_attention": "create_chunked_causal_mask" in code,
    }
    return {kind for kind in found if own.get(kind, True)} or {"full_attention"}


def text_config(model: PreTrainedModel) -> Any:
    """The configuration of the language model, where others are beside it."""
    config = model.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _decoder(model: PreTrainedModel) -> nn.Module:
    """The model without its head; of one that sees, together with its vision tower."""
    if text_config(model) is model.config:
        return _text_decoder(model)
    # get_decoder would be the text stack alone, to which image tokens are words like others.
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    return whole.base_model


def _text_decoder(model: PreTrainedModel) -> nn.Module:
    """The text stack without the head."""
    decoder = model.get_decoder()
    # Some models name no decoder, and transformers then gives them back whole.
    return decoder.model if decoder is model and hasattr(model, "lm_head") else decoder


@torch.no_grad()
def check_packing(model: PreTrainedModel) -> None:
    """ValueError for a model in which an episode of a packed row is not what it is alone.

    Looked at for two short episodes, so that it is found whatever the model is called.
    """
    _layer_types(model)
    training, device = model.training, next(model.parameters()).device
    vocabulary = text_config(model).vocab_size
    row = torch.tensor([[5, 11, 3, 7, 13, 4, 9, 0]], device=device) % vocabulary
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 0]], device=device)
    segments = torch.tensor([[1, 1, 1, 2, 2, 2, 2, 0]], device=device)
    model.eval()
    try:
        packed = final_hidden(model, row, positions, segments)[0, 3:7].float()
        alone = _decoder(model)(input_ids=row[:, 3:7], use_cache=False).last_hidden_state[0]
    except Exception as error:  # whatever comes of a mask or positions that it does not know
        raise ValueError(f"{type(model).__name__} cannot be run on packed rows: {error}") from error
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

    Such a model would be trained on other probabilities than it plays by.
    """
    training, device = model.training, next(model.parameters()).device
    row = torch.tensor([[5, 11, 3, 7]], device=device) % output_head(model).out_features
    model.eval()
    logits = model(input_ids=row, use_cache=False).logits.float()
    hidden = _decoder(model)(input_ids=row, use_cache=False).last_hidden_state
    model.train(training)
    if _difference(output_head(model)(hidden).float(), logits) > _tolerance(model):
        raise ValueError(f"{type(model).__name__} changes hidden states or logits around the head.")


def _difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative difference of two tensors; 0 for weights gone bad, of which training itself says."""
    difference = (found - expected).norm()
    return float(difference / expected.norm().clamp(min=1e-6)) if difference.isfinite() else 0.0


def _tolerance(model: PreTrainedModel) -> float:
    """How far the same hidden states may be apart, worked out in other batches."""
    return 1e-3 if model.dtype in (torch.float32, torch.float64) else 0.1
