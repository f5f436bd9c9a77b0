"""A method looks the same wherever it is drawn, and like no other one."""

import ast
import itertools
import re

import nbformat
import numpy as np
import pytest
from matplotlib.colors import CSS4_COLORS, TABLEAU_COLORS, to_rgb
from matplotlib.figure import Figure
from places import ROOT

from qsft_lite.baselines.registry import SHOWN, find_method
from qsft_lite.viz.plots import method_color, method_style

# What a viewer with deuteranopia sees, in linear RGB (Machado, Oliveira and Fernandes, 2009).
DEUTERANOPIA = np.array(
    [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]
)
TO_XYZ = np.array(  # from linear sRGB
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
WHITE = TO_XYZ.sum(axis=1)
APART = 15  # in Lab; a difference of 2 to 3 is just seen when two areas touch
# Told apart by marker and line, or never in one figure.
SAME_COLOR = {
    ("bc", "behavior"),
    ("ilql", "fitted_q"),
    ("q_sft", "q_sft_largest"),
    ("q_sft", "q_sft_distilled"),
    ("q_sft", "q_sft_new_head"),
    ("q_sft_distilled", "q_sft_new_head"),
    ("q_sft_distilled", "q_sft_largest"),
    ("q_sft_new_head", "q_sft_largest"),
    ("q_sft_dummy", "q_sft_returns_first"),
    ("q_sft_dummy", "q_sft_support"),
    ("q_sft_returns_first", "q_sft_support"),
    ("react", "act_only"),
}

# Colors that belong to no method. All others are greys, or come from the registry.
OTHER_COLORS = {
    "qsft_lite/viz/plots.py": {"#D55E00", "#0072B2", "#56B4E9", "#C2185B"},
    "qsft_lite/tasks/wordle/widgets.py": {"#787c7e", "#c9a227", "#3f8f4f"},  # tiles
    "qsft_lite/tasks/chess/widgets.py": {"#f2ede2", "#d3cabb"},  # squares
    "notebooks/06_wordle.ipynb": {"#C2B280"},  # words that fit the feedback no longer
    "notebooks/07_endgames.ipynb": {"#CC3311"},  # illegal moves
}
COLOR_KEYWORDS = {"color", "c", "colors", "facecolor", "edgecolor", "ecolor", "markerfacecolor"}
COLOR_KEYWORDS |= {"markeredgecolor", "facecolors", "edgecolors"}
LINES = {"plot", "semilogx", "semilogy", "loglog", "errorbar", "scatter"}


def lab(color: str, deuteranopia: bool = False) -> np.ndarray:
    """A color in CIE Lab, of a white of D65."""
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    if deuteranopia:
        linear = (DEUTERANOPIA @ linear).clip(0, 1)
    x, y, z = np.cbrt(TO_XYZ @ linear / WHITE)  # the cube root all the way: nothing is that dark
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def distance(one: str, other: str, deuteranopia: bool = False) -> float:
    return float(np.linalg.norm(lab(one, deuteranopia) - lab(other, deuteranopia)))


def test_the_measure_of_colors_is_lab():
    # Of the CSS colors, by any table of Lab values.
    assert lab("white") == pytest.approx([100, 0, 0], abs=0.1)
    assert lab("red") == pytest.approx([53.24, 80.09, 67.20], abs=0.1)
    assert lab("blue") == pytest.approx([32.30, 79.19, -107.86], abs=0.1)
    # A red and a green that differ for most, and hardly for some.
    assert distance("#CC3311", "#6B6E1E") > 3 * distance("#CC3311", "#6B6E1E", True)


@pytest.mark.parametrize("deuteranopia", [False, True])
def test_methods_are_told_apart_by_color(deuteranopia):
    near = {
        (one, other)
        for one, other in itertools.combinations(SHOWN, 2)
        if distance(SHOWN[one].color, SHOWN[other].color, deuteranopia) < APART
    }
    assert near == SAME_COLOR


def test_no_two_methods_share_color_line_and_marker():
    looks = [(method.color, method.line, method.marker) for method in SHOWN.values()]
    assert len(set(looks)) == len(looks)


@pytest.mark.parametrize("key", SHOWN)
def test_a_line_is_drawn_as_the_registry_says(key):
    method = SHOWN[key]
    axes = Figure().subplots()
    for name in (key, method.title):
        (line,) = axes.plot([0, 1], **method_style(name))
        drawn = (line.get_color(), line.get_marker(), line.get_linestyle(), line.get_label())
        assert drawn == (method.color, method.marker, method.line, method.title)
        assert method_color(name) == method.color
    (line,) = axes.plot([0, 1], **method_style(key, linestyle="--", label="mine"))
    changed = line.get_color(), line.get_linestyle(), line.get_label()
    assert changed == (method.color, "--", "mine")


def test_an_unknown_method_is_named():
    with pytest.raises(KeyError, match="no method 'conservative Q'"):
        method_style("conservative Q")


# No color but the registry's


def sources() -> list[tuple[str, str]]:
    """Path and source of every code cell and of every file of the package."""
    found = [
        (path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
        for path in sorted((ROOT / "qsft_lite").rglob("*.py"))
        if path.name != "registry.py"
    ]
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code" and not cell.source.startswith(("%", "!")):
                found.append((path.relative_to(ROOT).as_posix(), cell.source))
    return found


def is_grey(color: str) -> bool:
    return len({round(part, 3) for part in to_rgb(color)}) == 1


def is_color(text: str) -> bool:
    """Whether a string is a color by its form, and so wherever it stands."""
    return bool(re.fullmatch(r"#[0-9a-fA-F]{3,8}|C\d+", text)) or text in TABLEAU_COLORS


def literal_colors(source: str) -> list[str]:
    """Colors that a program spells out, greys aside."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and is_color(node.value):
            found.append(node.value)
        named = []
        if isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            named = [v for k, v in pairs if getattr(k, "value", None) in COLOR_KEYWORDS]
        if isinstance(node, ast.Call):
            named = [word.value for word in node.keywords if word.arg in COLOR_KEYWORDS]
            if isinstance(node.func, ast.Attribute) and node.func.attr in LINES:
                texts = [a.value for a in node.args if isinstance(a, ast.Constant)]
                # A format such as "r--": a letter of a color among markers and lines.
                formats = [t for t in texts if isinstance(t, str) and len(t) <= 4]
                found += [letter for t in formats for letter in t if letter in "bgrcmy"]
        for value in named:
            constants = [n.value for n in ast.walk(value) if isinstance(n, ast.Constant)]
            found += [c for c in constants if isinstance(c, str) and c in {*CSS4_COLORS, *"bgrcmy"}]
    return [color for color in found if color.startswith("C") or not is_grey(color)]


def mislabelled(source: str) -> list[str]:
    """Literal calls of method_style that give one method another one's name."""
    wrong = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("method_style"):
            labels = [word.value for word in node.keywords if word.arg == "label"]
            names = [n.value for n in [*node.args, *labels] if isinstance(n, ast.Constant)]
            known = [n for n in names if n in SHOWN or n in {m.title for m in SHOWN.values()}]
            if len({find_method(name).title for name in known}) > 1:
                wrong.append(ast.unparse(node))
    return wrong


def test_every_color_of_a_line_comes_from_the_registry():
    wrong = []
    for path, source in sources():
        colors = set(literal_colors(source)) - OTHER_COLORS.get(path, set())
        wrong += [f"{path}: {one}" for one in [*sorted(colors), *mislabelled(source)]]
    assert wrong == []


@pytest.mark.parametrize(
    "source",
    [
        'axes.plot(x, y, color="#0072B2")',
        'axes.plot(x, y, color="C2")',
        'axes.plot(x, y, "r--")',
        'axes.plot(x, y, c="tab:blue")',
        'axes.bar(x, y, color=["grey", "seagreen"])',
        'style = {"color": "green"}',
        'COLORS = {"CQL": "#009E73"}',
    ],
)
def test_a_literal_color_is_found(source):
    assert len(literal_colors(source)) >= 1


@pytest.mark.parametrize(
    "source",
    ['axes.plot(x, y, "k--")', 'axes.plot(x, y, "o", color="#999999")', 'name = "green"'],
)
def test_greys_and_words_pass(source):
    assert literal_colors(source) == []


def test_another_methods_name_is_found():
    assert mislabelled('plots.method_style("q_learning", label="CQL")') != []
    assert mislabelled('plots.method_style("cql", label="CQL")') == []
    assert mislabelled('plots.method_style("q_sft", label="Q-SFT, p/π")') == []
