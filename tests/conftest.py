"""What holds for every test: one thread, no window, no kernel but this environment's."""

import os

# One thread on purpose: results then do not depend on the machine's number of cores, and tests run
# side by side, a process a core.
# Set before numpy and torch are imported, which read it once; notebook kernels inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")

import hypothesis  # noqa: E402
import matplotlib  # noqa: E402
import pytest  # noqa: E402

# Not by MPLBACKEND: kernels would inherit that, and a notebook would show no pictures.
matplotlib.use("Agg")

# A slow machine is no failure, and CI must not fail by the luck of the draw.
hypothesis.settings.register_profile("here", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "here")


@pytest.fixture
def shown(monkeypatch):
    """What an explorer displays, in order."""
    from qsft_lite.viz import explorers as widgets

    displayed = []
    monkeypatch.setattr(widgets, "display", displayed.append)
    return displayed
