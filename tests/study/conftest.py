"""A study at its smallest."""

import pytest
from small_studies import LESS

from qsft_lite.study import Study, run


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Runs a study at smoke, with few games, in tmp_path/runs."""
    monkeypatch.setenv("QSFT_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("QSFT_THREADS", "1")

    def small(task, methods=(), **options):
        changes = LESS.get(task, {}) | options.pop("changes", {})
        options = {"output": tmp_path / "runs", "methods": methods, "changes": changes} | options
        study = Study.of(task, "smoke", **options)
        return study, run(study, quiet=True)

    return small
