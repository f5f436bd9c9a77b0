"""Results: one JSON file a run, and every table rendered from these files.

``python -m qsft_lite.results`` rewrites the marked tables of README.md and docs/; with ``--check``
it only compares. ``python -m qsft_lite.results compare`` holds a run against the committed results.
"""

from qsft_lite.results.pages import badge, render
from qsft_lite.results.provenance import project_root, provenance, repository
from qsft_lite.results.record import (
    KEYS,
    PROFILES,
    RESULT_PROFILES,
    load_result,
    load_results,
    name_of,
    write_result,
)
from qsft_lite.results.run import peak_memory_mib, start, usable_cpus
from qsft_lite.results.tables import format_cell, markdown_table

__all__ = [
    "KEYS",
    "PROFILES",
    "RESULT_PROFILES",
    "badge",
    "format_cell",
    "load_result",
    "load_results",
    "markdown_table",
    "name_of",
    "peak_memory_mib",
    "project_root",
    "provenance",
    "render",
    "repository",
    "start",
    "usable_cpus",
    "write_result",
]
