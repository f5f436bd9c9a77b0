"""The robot's episodes in pictures, and what a policy thinks of every bin of an action.

A policy is asked about one turn alone, as it is trained (memory="turn" of data.encode); of a
`LastLine` the policy within is asked.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ipywidgets
import numpy as np
from IPython.display import Image
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from qsft_lite import viz
from qsft_lite.policy.cached import CachedPolicy
from qsft_lite.policy.last_line import LastLine
from qsft_lite.policy.whole_actions import ask_tokens
from qsft_lite.tasks.manipulation.bins import SWITCHES
from qsft_lite.tasks.manipulation.env import Manipulation
from qsft_lite.tasks.manipulation.replay import Moment, Player, in_words, moments_of
from qsft_lite.tasks.manipulation.table import STEP, TURN
from qsft_lite.viz.explorers import show_explorer, step_through
from qsft_lite.viz.plots import HIGHLIGHT

VALUE, VALUE_EDGE = "#dcdcdc", "#777777"  # of q, behind the bars of probabilities
# Of each dimension its name, and what 1 is and its unit, or the names of its two bins.
DIMENSIONS = (
    ("x, to the right", STEP, "table widths"),
    ("y, away", STEP, "table widths"),
    ("z, up", STEP, "table widths"),
    ("a, tilt sideways", TURN, "radians"),
    ("b, tilt forward", TURN, "radians"),
    ("c, turn", TURN, "radians"),
    ("g, gripper", 0, "open", "shut"),
    ("s, stop", 0, "go on", "stop"),
)
WIDTH, HEIGHT, PICTURE = 11.9, 7.0, 2.88  # inches of a scene, and of its picture of 288 pixels
ALT = (
    "Left, a picture of the table and the robot's gripper at one step, and below it a line of the "
    "state's value over the steps. Right, for each of the eight numbers of an action, bars of the "
    "probabilities and values of its bins."
)
MOVES = {  # of each button its dimension and number
    "left": (0, -1.0),
    "right": (0, 1.0),
    "forward": (1, 1.0),
    "back": (1, -1.0),
    "up": (2, 1.0),
    "down": (2, -1.0),
    "close": (6, 1.0),
    "open": (6, -1.0),
}
POLICY, AGAIN = "as the policy", "start again"


# Episodes in pictures


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
            text = _wrapped(captions[step], 18)
            axes.text(0.5, -0.05, text, transform=axes.transAxes, ha="center", va="top", size=10)
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
    pixels a whole episode takes 100 to 200 kB.
    """
    captions = _captions(pictures, captions)
    if pause <= 0:
        raise ValueError(f"pause must be above 0 seconds, not {pause}")
    height, width = pictures[0].shape[:2]
    font = ImageFont.truetype(findfont("DejaVu Sans"), max(9, round(width / 20)))
    line = 2 * font.size
    frames = []
    for step, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        frame = Pillow.new("RGB", (width, height + line), "white")
        frame.paste(Pillow.fromarray(picture))
        text = f"step {step}" + (f": {caption}" if caption else "")
        ImageDraw.Draw(frame).text((4, height + line / 5), text, "black", font)
        frames.append(frame)
    long = [bool(caption) or step in (0, len(pictures) - 1) for step, caption in enumerate(captions)]
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


# What a policy thinks


class Bins(NamedTuple):
    """What a policy thinks of the bins of each dimension, given the bins before it.

    Attributes:
        chosen: (8,) int64, of each dimension the bin that the later ones are asked after.
        pi, pi_hat: of each dimension (n,) float32, the probabilities of its n bins.
        q: of each dimension (n,) float32, their values; None of a policy without values.
    """

    chosen: np.ndarray
    pi: list[np.ndarray]
    pi_hat: list[np.ndarray]
    q: list[np.ndarray] | None


class Asked:
    """A policy that is asked about states of an environment.

    Raises ValueError for a tokenizer that does not write each word of an action as one token.
    """

    def __init__(self, policy: CachedPolicy | LastLine, env: Manipulation):
        self.policy = policy.policy if isinstance(policy, LastLine) else policy
        self.env, counts = env, np.array(env.bins.counts)
        rows = np.minimum(np.arange(counts.max())[:, None], counts - 1)
        read = self.policy._reader.read([(text, True) for text in env.bins.write(rows)])
        if any(len(ids) != 8 for ids in read):
            raise ValueError("the tokenizer must write each word of an action as one token")
        # Of each dimension (n,) the tokens of its bins.
        self.ids = [np.array(read)[:count, place] for place, count in enumerate(counts)]

    def bins(self, moment: Moment, chosen: np.ndarray) -> Bins:
        """All bins at a state; chosen: (8,) the action whose dimensions the later ones follow."""
        begun = [int(self.ids[place][bin]) for place, bin in enumerate(chosen[:7])]
        found = self._ask([moment], begun)
        pi, pi_hat, q = (
            None if part is None else [part[0, place][ids] for place, ids in enumerate(self.ids)]
            for part in found
        )
        return Bins(np.asarray(chosen), pi, pi_hat, q)

    def own(self, moment: Moment) -> np.ndarray:
        """(8,) the policy's choice: of each dimension in turn the likeliest bin by pi_hat."""
        chosen: list[int] = []
        for place, ids in enumerate(self.ids):
            begun = [int(self.ids[i][bin]) for i, bin in enumerate(chosen)]
            _, pi_hat, _ = self._ask([moment], begun)
            chosen.append(int(pi_hat[0, place][ids].argmax()))
        return np.array(chosen)

    def values(self, moments: Sequence[Moment]) -> np.ndarray | None:
        """(N,) the value V(s) of each state; nan where the episode is over.

        V(s) = sum_a pi(a|s) q(a|s) over the first dimension of an action: the mean of what acting
        as pi is worth, before any bin is chosen. It needs no sample, and is what the backup
        "behavior" reads of a state. None of a policy without values.
        """
        going = [moment for moment in moments if not moment.over]
        values = np.full(len(moments), np.nan)
        if going:
            pi, _, q = self._ask(going, [])
            if q is None:
                return None
            values[[not moment.over for moment in moments]] = (pi * q).sum(-1)[:, 0]
        return values

    def _ask(self, moments: Sequence[Moment], begun: Sequence[int]) -> list[np.ndarray | None]:
        """pi, pi_hat and q (B, T, V) of the next tokens at states, after the same beginning."""
        histories = [[(moment.text, False)] for moment in moments]
        images = [[moment.image] for moment in moments] if self.env.images else None
        found = ask_tokens(self.policy, histories, [begun] * len(moments), images)
        return [None if part is None else part.numpy(force=True) for part in found]


# Explorers


def draw_scene(
    asked: Asked,
    moments: Sequence[Moment],
    step: int,
    *,
    values: np.ndarray | None,
    action: str | None = None,
) -> Figure:
    """A moment of an episode, the values of its moments, and all bins of the next action.

    Args:
        asked: the policy.
        moments: of the episode so far.
        step: the one that is shown, from 0 on.
        values: (len(moments),) of `Asked.values`.
        action: what was done here, "x12 y03 ... s0"; its bins are marked, and each dimension is
            asked given those before. The policy's own choice if None or if it cannot be read.
    """
    now = moments[step]
    taken = None if action is None else asked.env.bins.read(action)
    bins = None
    if not now.over:
        bins = asked.bins(now, asked.own(now) if taken is None else taken)
    told = now.text.strip().removeprefix("<image> ")
    with viz.figure((WIDTH, HEIGHT), fixed=True) as figure:
        picture = figure.add_axes(_place(0.2, HEIGHT - 0.95 - PICTURE, PICTURE, PICTURE))
        picture.imshow(now.picture, interpolation="nearest")
        viz.bare(picture)
        _draw_values(figure.add_axes(_place(0.85, 0.65, 2.2, 1.75)), step, values)
        if bins is None:
            axes = figure.add_axes(_place(3.9, 0.6, 7.7, 5.0))
            axes.text(0.5, 0.5, "The episode is over.", ha="center", fontsize=14)
            viz.bare(axes)
        else:
            _draw_bins(figure, asked, bins, "taken" if taken is not None else "the policy's choice")
        title = {"x": 0.2 / WIDTH, "y": 1 - 0.1 / HEIGHT, "ha": "left", "fontsize": 13}
        lines = [f"Asked: {_instruction(told)}", _step_said(asked, moments, step, action, bins)]
        figure.suptitle("\n".join(lines), parse_math=False, **title)
    return figure


def scene_explorer(
    policy: CachedPolicy | LastLine,
    env: Manipulation,
    starts: Sequence[Mapping[str, Any]],
    played: Sequence[Mapping[str, Any]],
    *,
    game: int = 1,
    step: int = 0,
) -> None:
    """Step through played episodes: the picture, its value, and all bins of the action taken.

    Args:
        policy: with values or without.
        env: one with the options of that which was played; it is left as it is.
        starts: of each episode, see `replay.starts_of`.
        played: rows of its transcripts.
        game, step: those shown at the start.

    Raises ValueError for no games, not one transcript for each start, a start value not on offer,
    or an episode of another start.
    """
    if len(starts) != len(played):
        raise ValueError(f"{len(starts)} starts and {len(played)} transcripts: not one each")
    asked, known = Asked(policy, env), {}

    def draw(game: int, turn: int) -> Figure:
        row = played[game - 1]
        if game not in known:
            moments = moments_of(env, starts[game - 1], row)
            known[game] = moments, asked.values(moments)
        moments, values = known[game]
        actions = row["text"][1::2]
        action = actions[turn] if turn < len(actions) else None
        return draw_scene(asked, moments, turn, values=values, action=action)

    lengths = [len(row["text"]) // 2 for row in played]
    step_through(draw, {}, ALT, lengths=lengths, game=game, turn=step, first=0)


def play_explorer(
    policy: CachedPolicy | LastLine, env: Manipulation, start: Mapping[str, Any]
) -> None:
    """Move the gripper oneself, with what the policy would do beside it.

    A button moves it as far as one step can, or shuts or opens it; the gripper stays as it is when
    it moves. "as the policy" takes the policy's choice, "start again" the same table.

    Args: as of `scene_explorer`; start: arguments of the environment's reset.
    """
    asked = Asked(policy, env)
    player = Player(env, start)
    values = asked.values(player.moments)
    buttons = ipywidgets.ToggleButtons(
        options=[*MOVES, POLICY, AGAIN], value=None, style={"button_width": "95px"}
    )

    def draw(move: str | None) -> Figure:
        nonlocal player, values
        buttons.value = None
        now = player.moments[-1]
        if move == AGAIN:
            player = Player(env, start)
            values = asked.values(player.moments)
        elif move is not None and not now.over:
            bins = asked.own(now) if move == POLICY else move_bins(env, now, move)
            player.step(env.bins.write(bins[None])[0])
            if values is not None:
                values = np.append(values, asked.values(player.moments[-1:]))
        return draw_scene(asked, player.moments, len(player.moments) - 1, values=values)

    show_explorer(draw, {"move": buttons}, ALT)


def move_bins(env: Manipulation, now: Moment, move: str) -> np.ndarray:
    """(8,) bins of the action of a button; KeyError for another name than those of MOVES."""
    dimension, number = MOVES[move]
    action = np.zeros((1, 8))
    action[0, list(SWITCHES)] = 1.0 if now.state[8] < 0.5 else -1.0, -1.0
    action[0, dimension] = number
    return env.bins.encode(action)[0]


def _place(left: float, bottom: float, width: float, height: float) -> tuple[float, ...]:
    """A rectangle in inches as shares of a scene."""
    return left / WIDTH, bottom / HEIGHT, width / WIDTH, height / HEIGHT


def _instruction(told: str) -> str:
    """What the robot is told, of the text of a state."""
    begin = max(told.find(verb) for verb in ("put ", "take ", "push ", "lift ", "open the "))
    return told[max(begin, 0) :]


def _step_said(
    asked: Asked, moments: Sequence[Moment], step: int, action: str | None, bins: Bins | None
) -> str:
    """The second line of a title: what has just happened, and what is done next."""
    before = f" ({moments[step].happened})" if moments[step].happened else ""
    said = f"Step {step}{before}"
    if bins is None:
        return said + (": success" if moments[step].success and "success" not in before else "")
    words = in_words(asked.env.bins.decode(bins.chosen[None])[0])
    written = asked.env.bins.write(bins.chosen[None])[0].strip()
    if action is not None and asked.env.bins.read(action) is None:
        return f"{said}. Done: {action.strip()[:40]!r}, which cannot be read; the policy: {words}"
    return f"{said}. {'Done' if action is not None else 'The policy'}: {written} ({words})"


def _draw_values(axes: Axes, step: int, values: np.ndarray | None) -> None:
    """The line of values over the steps, with a mark at the one that is shown."""
    axes.set_xlabel("step", labelpad=2)
    if values is None:
        axes.set_title("the policy has no values", fontsize=12)
        axes.set(xticks=[], yticks=[])
        return
    steps = np.arange(len(values))
    axes.plot(steps, values, color="black", marker="." if len(values) < 3 else None)
    axes.axvline(step, color=HIGHLIGHT, linewidth=1.5)
    axes.plot(step, values[step], "o", color=HIGHLIGHT)
    low, high = np.nanmin([0, *values]), np.nanmax([1, *values])
    axes.set(xlim=(-0.5, max(len(values) - 0.5, 1)), ylim=(low - 0.03, high + 0.05))
    axes.set_title("V, value of the state", fontsize=12)
    axes.tick_params(labelsize=11)


def _draw_bins(figure: Figure, asked: Asked, bins: Bins, mark: str) -> None:
    """A panel for each dimension, and what their bars are."""
    every = [*bins.pi, *(bins.q or [])]
    low, high = min(0, *map(np.min, every)), max(1, *map(np.max, every))
    for place in range(8):
        row, column = divmod(place, 3)
        rectangle = _place(3.95 + 2.68 * column, 4.45 - 1.92 * row, 2.4, 1.25)
        axes = figure.add_axes(rectangle)
        _draw_dimension(axes, asked, bins, place)
        axes.set(ylim=(low, low + 1.18 * (high - low)), yticks=np.linspace(low, high, 3))
        axes.set_yticklabels([f"{y:.2g}" for y in axes.get_yticks()] if not column else [])
    legend = figure.add_axes(_place(3.95 + 2.68 * 2, 0.61, 2.4, 1.25))
    legend.fill_between([], [], color=VALUE, edgecolor=VALUE_EDGE, label="q, value of the bin")
    legend.vlines([], 0, 1, color=viz.method_color("bc"), lw=8, label="π, the data's play")
    legend.vlines([], 0, 1, color=viz.method_color("q_sft"), lw=8, label="π̂, as it plays")
    legend.plot([], [], "v", color=HIGHLIGHT, label=mark)
    handles, labels = legend.get_legend_handles_labels()
    legend.legend(handles, labels, loc="center left", fontsize=12, handlelength=1.0)
    viz.bare(legend)


def _draw_dimension(axes: Axes, asked: Asked, bins: Bins, place: int) -> None:
    """The bins of one dimension: q behind, pi and pi_hat side by side, a mark at the chosen one."""
    name, scale, *units = DIMENSIONS[place]
    count = len(bins.pi[place])
    steps = np.arange(count)
    if bins.q is not None:
        edges = np.arange(count + 1) - 0.5
        axes.stairs(bins.q[place], edges, fill=True, facecolor=VALUE, edgecolor=VALUE_EDGE, lw=1)
    width = min(0.3 * 2.4 * 72 / (count + 0.4), 12)  # points
    apart = width / 2 / (2.4 * 72) * (count + 0.4)
    for side, share, method in ((-1, bins.pi, "bc"), (1, bins.pi_hat, "q_sft")):
        color = viz.method_color(method)
        axes.vlines(steps + side * apart, 0, share[place], color=color, lw=width)
    top = max(1, *(share[place].max() for share in (bins.pi, bins.q or bins.pi)))
    axes.plot(bins.chosen[place], 1.08 * top, "v", color=HIGHLIGHT, markersize=8)
    axes.set_xlim(-0.7, count - 0.3)
    axes.grid(visible=False, axis="x")
    axes.tick_params(labelsize=11, pad=2)
    if scale:
        ticks = np.unique(np.linspace(0, count - 1, 3).round().astype(int))
        numbers = scale * asked.env.bins.centers[place][ticks]
        axes.set_xticks(ticks, [f"{number:+.2f}".replace("-", "−") for number in numbers])
        name = f"{name} ({units[0]})"
    else:
        axes.set_xticks(steps, units[:count])
    axes.set_title(name, fontsize=11, pad=3)
