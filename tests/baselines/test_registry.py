"""The registry of methods: one name and one look for one thing, and no torch for it."""

import subprocess
import sys

import pytest
from matplotlib.colors import to_rgb

from qsft_lite.baselines.registry import METHODS, SHOWN, find_method


def test_no_two_methods_have_one_name_or_one_look():
    titles = [method.title for method in SHOWN.values()]
    looks = [(method.color, method.marker, method.line) for method in SHOWN.values()]
    assert len({*titles, *SHOWN}) == len(titles) + len(SHOWN)
    assert len(set(looks)) == len(looks)
    variants = ("q_sft_new_head", "q_sft_distilled")  # in the color of the method they are of
    colors = [to_rgb(METHODS[key].color) for key in METHODS if key not in variants]
    distance = min(
        sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5
        for i, one in enumerate(colors)
        for other in colors[:i]
    )
    assert distance > 0.2


def test_a_method_is_found_by_key_and_by_title():
    assert find_method("cql") is find_method("CQL") is METHODS["cql"]
    assert find_method("Optimum").color == "#000000"
    with pytest.raises(KeyError, match="no method 'conservative Q'; there are: Behavior cloning"):
        find_method("conservative Q")


def test_figures_can_read_it_without_torch():
    command = "import sys, qsft_lite.baselines.registry; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", command], check=True)
