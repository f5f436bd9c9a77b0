"""A study at its smallest."""

import pytest
from small_studies import FEW, LESS

from qsft_lite.study import Study, run


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Runs a study at smoke, with few games and candidates, in tmp_path/runs."""
    monkeypatch.setenv("QSFT_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("QSFT_THREADS", "1")
    # Grids have many candidates, and such a study has little else to do than to play them.
    for name, grid in FEW.items():
        monkeypatch.setattr(f"qsft_lite.study.rows.{name}", grid)

    def small(task, methods=(), **options):
        changes = LESS.get(task, {}) | options.pop("changes", {})
        options = {"output": tmp_path / "runs", "methods": methods, "changes": changes} | options
        study = Study.of(task, "smoke", **options)
        return study, run(study, quiet=True)

    return small
