"""How a model reads pictures: the rule from an array of colors to pixel_values.

The rule is kept in the config of the model (q_sft_images), so it goes wherever the weights go.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import lru_cache, partial
from json import dumps, loads
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from qsft_lite.models.reading import image_inputs

__all__ = ["image_tokens", "pixel_rule", "set_image_rule"]

PixelRule = Callable[[list[np.ndarray]], torch.Tensor]


def set_image_rule(
    model: nn.Module,
    processor: Any = None,
    *,
    size: int | None = None,
    resize: bool = False,
    mean: list[float] | None = None,
    std: list[float] | None = None,
) -> None:
    """Write into the config of a model how it reads pictures: q_sft_images.

    Args:
        model: an image-text-to-text model of transformers, with ``get_image_features``.
        processor: its image processor. Of those that cut a picture into several, the whole picture
            alone is taken. None for: pixels / 255, less the mean, over the standard deviation.
        size: height and width that the model sees; None for that of its vision_config.
        resize: whether other pictures are scaled to this size, or refused.
        mean, std: of red, green and blue; None for 0 and 1.

    Raises ValueError for a model that cannot be asked so.
    """
    if processor is not None:
        kept = loads(dumps(processor.to_dict(), default=_as_list))
        if "do_image_splitting" in kept:
            kept["do_image_splitting"] = False
        rule: dict[str, Any] = {"processor": kept}
    else:
        size = size or getattr(model.config.vision_config, "image_size", None)
        rule = {"size": size, "resize": resize, "mean": mean or [0.0] * 3, "std": std or [1.0] * 3}
    side = rule.get("size") or 64
    gray = np.full((side, side, 3), 120, dtype=np.uint8)
    training, parameter = model.training, next(model.parameters())
    model.eval()
    try:
        pixels = _pixels([gray, gray], rule=dumps(rule)).to(parameter.device, parameter.dtype)
        with torch.no_grad():
            found = model.get_image_features(**image_inputs(model, pixels))
        features = getattr(found, "pooler_output", found)
        tokens = sum(part.shape[:-1].numel() for part in features)
    except Exception as error:  # each family asks for something else
        raise ValueError(
            f"{type(model).__name__} cannot be asked for the features of a picture by its pixels "
            f"alone: {type(error).__name__}: {str(error)[:300]}"
        ) from error
    finally:
        model.train(training)
    model.config.q_sft_images = {"tokens": tokens // 2, **rule}


def image_tokens(model: nn.Module) -> int:
    """How many tokens a picture has in a model; 0 for a model of texts."""
    return (getattr(model.config, "q_sft_images", None) or {"tokens": 0})["tokens"]


def pixel_rule(model: nn.Module) -> PixelRule | None:
    """What makes pixel_values of pictures for a model: list of (H, W, 3) uint8 -> (N, 3, H, W).

    They are float32, on the CPU. ValueError for pictures of another size than the model sees. None
    for a model of texts.
    """
    rule = getattr(model.config, "q_sft_images", None)
    return None if rule is None else partial(_pixels, rule=dumps(rule))


def _pixels(pictures: list[np.ndarray], *, rule: str) -> torch.Tensor:
    settings = loads(rule)
    for picture in pictures:
        picture = np.asarray(picture)
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
            raise ValueError(f"a picture is {picture.dtype} {picture.shape}, not uint8 (H, W, 3)")
    if "processor" in settings:
        found = _processor(dumps(settings["processor"]))(images=pictures, return_tensors="pt")
        return found["pixel_values"].flatten(0, -4).float()
    wanted = (settings["size"],) * 2
    different = {picture.shape[:2] for picture in pictures}
    if len(different) > 1 or not settings["resize"] and different != {wanted}:
        sizes = ", ".join(f"{height} x {width}" for height, width in sorted(different))
        raise ValueError(
            f"pictures of {sizes} pixels, where the model sees {wanted[0]} x {wanted[1]}"
        )
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    if different != {wanted}:
        pixels = nn.functional.interpolate(
            pixels, wanted, mode="bilinear", antialias=True, align_corners=False
        )
    mean, std = (torch.tensor(settings[name])[:, None, None] for name in ("mean", "std"))
    return ((pixels - mean) / std).contiguous()


@lru_cache(maxsize=8)
def _processor(settings: str) -> Any:
    """The image processor with these settings; one of transformers' own, in its plain Pillow form.

    That is the same wherever it runs, with torchvision or without.
    """
    kept = loads(settings)
    name = str(kept.get("image_processor_type"))
    made_by = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name, None)
    if (
        not name.endswith(("ImageProcessor", "ImageProcessorFast", "ImageProcessorPil"))
        or not made_by
    ):
        raise ValueError(f"{name!r} is no image processor of transformers")
    return made_by.from_dict(copy.deepcopy(kept))


def _as_list(value: Any) -> Any:
    """What JSON does not hold, in a form that it does."""
    return value.tolist() if hasattr(value, "tolist") else int(value)
