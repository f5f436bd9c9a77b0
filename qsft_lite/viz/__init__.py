"""Pictures and explorers."""

from qsft_lite.viz.plots import bare, figure, method_color, method_style

__all__ = ["bare", "figure", "method_color", "method_style"]
