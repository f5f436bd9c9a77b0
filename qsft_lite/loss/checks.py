"""What the losses refuse, and how a mask picks rows: shapes, dtypes and data that do not fit.

Errors name the argument, the first position that is wrong, and what to do about it.
"""

from __future__ import annotations

import difflib
import math
import operator

import torch


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """ValueError, with the nearest choice, for a value that is none of them."""
    if value not in choices:
        nearest = difflib.get_close_matches(str(value), choices, n=1, cutoff=0)[0]
        listed = ", ".join(f'"{choice}"' for choice in choices)
        raise ValueError(f'{name} must be one of {listed}, not {value!r}. Nearest: "{nearest}".')


def check_chunk_size(chunk_size: int) -> None:
    """ValueError for less than one row at a time."""
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, not {chunk_size}.")


def dummy_of(leftover: str | int, vocabulary: int) -> int | None:
    """The dummy's token id, or None for the uniform leftover."""
    if vocabulary < 2:
        raise ValueError(f"The vocabulary needs at least two tokens, not {vocabulary}.")
    if isinstance(leftover, str) and leftover == "uniform":
        return None
    if isinstance(leftover, bool) or not hasattr(leftover, "__index__"):
        raise ValueError(
            f'leftover must be "uniform" or the token id of the dummy, an int, not {leftover!r}.'
        )
    dummy = operator.index(leftover)
    if not 0 <= dummy < vocabulary:
        raise ValueError(
            f"leftover names token {dummy} as the dummy, but ids go from 0 to {vocabulary - 1}."
        )
    return dummy


def check_tensors(name: str, scores: torch.Tensor, **others: torch.Tensor | None) -> None:
    """Scores (..., V or H) must be floating, and the others (...) on the same device.

    Only a mask may be None.
    """
    check_floating(name, scores)
    if scores.ndim == 0:
        raise ValueError(f"{name} must have a last dimension to score tokens; it has none.")
    for other_name, other in others.items():
        if other is None and other_name == "mask":
            continue
        if not isinstance(other, torch.Tensor) or other.is_complex():
            raise TypeError(f"{other_name} must be a tensor of real numbers, not {_kind(other)}.")
        if other_name == "actions" and (other.is_floating_point() or other.dtype == torch.bool):
            raise TypeError(f"actions must be an integer tensor of token ids, not {_kind(other)}.")
        if other.shape != scores.shape[:-1]:
            raise ValueError(
                f"{other_name} has shape {tuple(other.shape)}, but {name} has "
                f"{tuple(scores.shape)}: expected {tuple(scores.shape[:-1])}."
            )
        _check_device(other_name, other, name, scores)


def check_floating(name: str, values: object) -> None:
    """TypeError for anything but a floating tensor."""
    if not isinstance(values, torch.Tensor) or not values.is_floating_point():
        raise TypeError(f"{name} must be a floating tensor, not {_kind(values)}.")


def check_head(hidden: torch.Tensor, weight: torch.Tensor) -> None:
    """Weight must be (V, H) with the H, dtype and device of hidden."""
    if not isinstance(weight, torch.Tensor) or weight.dtype != hidden.dtype:
        raise TypeError(f"weight must be a {hidden.dtype} tensor like hidden, not {_kind(weight)}.")
    if weight.ndim != 2 or weight.shape[1] != hidden.shape[-1]:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}, but hidden has {tuple(hidden.shape)}: "
            f"expected (V, {hidden.shape[-1]}), one row for each token."
        )
    _check_device("weight", weight, "hidden", hidden)


def _check_device(name: str, one: torch.Tensor, other_name: str, other: torch.Tensor) -> None:
    if one.device != other.device:
        raise ValueError(f"{name} is on {one.device}, but {other_name} is on {other.device}.")


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, torch.Tensor) else type(value).__name__


def check_data(
    actions: torch.Tensor,
    target: torch.Tensor,
    mask: torch.Tensor | None,
    vocabulary: int,
    dummy: int | None,
) -> None:
    """The checks that must look at the data, at the used positions."""
    used = torch.ones_like(actions, dtype=torch.bool)
    if mask is not None:
        check_binary("mask", mask)
        used = mask.bool()
    if not used.any():
        raise ValueError(
            f"mask uses none of the {used.numel()} positions: drop batches without action tokens."
        )
    complaint = f"outside the vocabulary, ids 0 to {vocabulary - 1}"
    bad = (actions < 0) | (actions >= vocabulary)
    refuse("actions", actions, used & bad, complaint, "Mask out positions that are not actions.")
    if dummy is not None:
        remedy = "It must be a token that is never an action: choose another id for leftover."
        refuse("actions", actions, used & (actions == dummy), "at the dummy token", remedy)
    remedy = "Scale rewards so that returns lie in [0, 1]; bellman_target clamps what is left."
    bad = ~((target >= 0) & (target <= 1))
    refuse("target", target, used & bad, "outside [0, 1]", remedy)


def check_binary(name: str, values: torch.Tensor) -> None:
    """ValueError for anything but 0 and 1, true and false."""
    refuse(name, values, (values != 0) & (values != 1), "neither 0 nor 1", "Use a bool tensor.")


def check_losses(
    name: str, losses: torch.Tensor, rows: torch.Tensor | None, shape: tuple[int, ...], remedy: str
) -> None:
    """Refuse losses (N,) that are not finite, as come of bad scores.

    Looking at the result saves a pass over all scores where all is well.
    """
    losses = put_back(losses, rows, shape)
    refuse(name, losses, ~losses.isfinite(), "without a finite loss", remedy)


def refuse(name: str, values: torch.Tensor, bad: torch.Tensor, complaint: str, remedy: str) -> None:
    """Raise ValueError where bad, of the shape of values, is true anywhere."""
    if bad.any():
        first = tuple(bad.nonzero()[0].tolist())
        raise ValueError(
            f"{name}: {int(bad.sum())} of {bad.numel()} positions {complaint}; the first is at "
            f"{first}, {values[first].item()}. {remedy}"
        )


def compute_dtype(tensor: torch.Tensor) -> torch.dtype:
    """The dtype itself, but float32 at least."""
    return torch.promote_types(tensor.dtype, torch.float32)


def put_back(
    values: torch.Tensor, rows: torch.Tensor | None, shape: tuple[int, ...]
) -> torch.Tensor:
    """Values of these rows at their positions in a tensor of this shape, 0 elsewhere."""
    if rows is not None:
        values = values.new_zeros(math.prod(shape)).index_copy(0, rows, values)
    return values.reshape(shape)
