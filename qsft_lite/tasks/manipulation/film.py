"""An episode of the robot in pictures: a strip, and an animation."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from IPython.display import Image
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from qsft_lite import viz


def film_strip(
    pictures: Sequence[np.ndarray], captions: Sequence[str] | None = None, *, count: int = 8
) -> Figure:
    """An episode as a strip of pictures, each with its step and what happened in it.

    The first and the last are shown, then those with a caption, then others, evenly. The label of
    the figure is its alternative text, see `described`.

    Args:
        pictures: (H, W, 3) uint8 of every moment, in order, as of `replay.pictures_of`.
        captions: of each picture, what happened in the step before; "" for nothing.
        count: pictures of the strip, 6 to 10; an episode may have fewer.

    Raises ValueError for no pictures, another count, or captions that are not one for each.
    """
    captions = _captions(pictures, captions)
    if not 6 <= count <= 10:
        raise ValueError(f"a strip has 6 to 10 pictures, not {count}")
    shown = _evenly_shown(captions, count)
    with viz.figure((1.5 * len(shown) + 0.1, 2.35), fixed=True) as figure:
        width = 1.5 / figure.get_figwidth()
        for place, step in enumerate(shown):
            axes = figure.add_axes((place * width + 0.05 * width, 0.3, 0.94 * width, 0.6))
            axes.imshow(pictures[step], aspect="auto")
            axes.set_title(f"step {step}", fontsize=12)
            viz.bare(axes)
            text = _wrapped(captions[step], 17)
            axes.text(0.5, -0.05, text, transform=axes.transAxes, ha="center", va="top", size=11)
        told = [f"step {i}: {captions[i]}" for i in shown if captions[i]]
        which = ", ".join(map(str, shown))
        alt = f"A strip of {len(shown)} pictures of an episode, of steps {which}."
        figure.set_label(" ".join([alt, "; ".join(told)]).strip())
    return figure


def animation(
    pictures: Sequence[np.ndarray], captions: Sequence[str] | None = None, *, pause: float = 0.2
) -> Image:
    """An episode as an animation, which plays wherever the notebook is shown, without a kernel.

    It is an animated PNG, which is a picture of its first moment where nothing moves. Moments with
    a caption stay for longer. Arguments as of `film_strip`; pause: seconds of a picture. At 288
    pixels a whole episode takes 80 to 120 kB.
    """
    captions = _captions(pictures, captions)
    if pause <= 0:
        raise ValueError(f"pause must be above 0 seconds, not {pause}")
    height, width = pictures[0].shape[:2]
    font = ImageFont.truetype(findfont("DejaVu Sans"), max(9, round(width / 20)))
    wide = int(width / (0.62 * font.size))  # letters of a line
    texts = [f"step {i}\n{_wrapped(caption, wide)}".strip() for i, caption in enumerate(captions)]
    below = round(1.3 * font.size * (1 + max(text.count("\n") for text in texts))) + 6
    frames = []
    for picture, text in zip(pictures, texts, strict=True):
        frame = Pillow.new("RGB", (width, height + below), "white")
        frame.paste(Pillow.fromarray(picture))
        ImageDraw.Draw(frame).multiline_text((4, height + 2), text, "black", font)
        frames.append(frame)
    long = [
        bool(caption) or step in (0, len(pictures) - 1) for step, caption in enumerate(captions)
    ]
    durations = [round(1000 * pause * (5 if stays else 1)) for stays in long]
    buffer = io.BytesIO()
    options = {"save_all": True, "append_images": frames[1:], "loop": 0, "optimize": True}
    frames[0].save(buffer, format="png", duration=durations, **options)
    told = "; ".join(f"step {i}: {caption}" for i, caption in enumerate(captions) if caption)
    alt = f"Animation of an episode of {len(pictures) - 1} steps. {told}".strip()
    return Image(data=buffer.getvalue(), alt=alt)


def described(figure: Figure) -> Image:
    """A figure as a picture with its label as the alternative text."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return Image(data=buffer.getvalue(), alt=figure.get_label())


def _captions(pictures: Sequence[np.ndarray], captions: Sequence[str] | None) -> list[str]:
    if not len(pictures):
        raise ValueError("an episode has at least one picture")
    captions = [""] * len(pictures) if captions is None else list(captions)
    if len(captions) != len(pictures):
        raise ValueError(f"{len(pictures)} pictures need as many captions, not {len(captions)}")
    return captions


def _evenly_shown(captions: Sequence[str], count: int) -> list[int]:
    """The steps that a strip shows, in order."""
    last = len(captions) - 1
    told = [step for step in range(1, last) if captions[step]]
    keep = min(len(told), count - 2)
    told = [told[round(i)] for i in np.linspace(0, len(told) - 1, keep)] if keep else []
    shown = {0, last, *told}
    while len(shown) < min(count, last + 1):  # into the middle of the widest gap
        steps = sorted(shown)
        gap, begin = max((b - a, -a) for a, b in zip(steps, steps[1:], strict=False))
        shown.add(-begin + gap // 2)
    return sorted(shown)


def _wrapped(text: str, letters: int) -> str:
    """A text in lines of so many letters."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], joined] if len(joined) <= letters else [*lines, word]
    return "\n".join(lines)
