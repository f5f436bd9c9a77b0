"""Numbers as people read them: cells and Markdown tables."""

from __future__ import annotations

import math
from typing import Any

ROUNDING = 1e-12  # what is smaller is the rounding of numbers near 1, and shown as 0


def format_cell(value: Any) -> str:
    """One cell: floats to 3 significant digits, ``{"mean", "low", "high"}`` as "m [l, h]".

    The three numbers of an interval have the same decimals, as many as its width deserves; one
    without width is its mean alone.
    """
    if value is None:
        return "-"
    if isinstance(value, dict):
        return _interval(value["mean"], value["low"], value["high"])
    if isinstance(value, float):
        return _three_digits(value)
    return str(value).replace("|", "\\|")


def _interval(mean: float, low: float, high: float) -> str:
    half, largest = (high - low) / 2, max(abs(low), abs(high))
    if half <= ROUNDING:
        return format_cell(mean)
    decimals = max(math.ceil(0.3 - math.log10(half)), 2 if largest < 10 else 0)
    mean, low, high = (
        f"{round(number, decimals) + 0.0:,.{decimals}f}" for number in (mean, low, high)
    )
    return f"{mean} [{low}, {high}]"


def _three_digits(value: float) -> str:
    size = abs(value)
    if size < ROUNDING:
        return "0.00"
    if size >= 1000:
        return f"{value:,.0f}" if size < 1e6 else f"{value:.2e}"
    if size < 1e-3:
        return f"{value:.2e}"
    return f"{value:#.3g}".rstrip(".")


def markdown_table(rows: list[dict[str, Any]]) -> str:
    """A GitHub Markdown table of rows that have the same keys."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "\n".join("| " + " | ".join(map(format_cell, line)) + " |" for line in lines)
