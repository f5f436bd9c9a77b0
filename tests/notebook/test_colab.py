"""The install cell on a machine such as Colab's: torch and numpy are there and must stay."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from install_cell import INSTALL_CELL
from places import ROOT

ADDRESS = "git+https://github.com/qsft-lite/qsft_lite"
TORCH = "2.6.0+cu124"
NUMPY = "1.26.4" if sys.version_info < (3, 13) else "2.1.0"  # 1.26 has no build for Python 3.13

REPORT = """
import importlib.util
from importlib.metadata import version
import matplotlib, numpy, pandas, scipy.optimize, torch
assert importlib.util.find_spec("qsft_lite") and version("qsft-lite")
print(numpy.__version__, version("numpy"), torch.__version__, version("torch"))
"""


def torch_wheel(folder: Path) -> Path:
    """Make a wheel of nothing but torch's name and version; the real one is several gigabytes."""
    path = folder / f"torch-{TORCH}-py3-none-any.whl"
    info = f"torch-{TORCH}.dist-info"
    files = {
        "torch/__init__.py": f"__version__ = {TORCH!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: torch\nVersion: {TORCH}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return path


@pytest.mark.network
@pytest.mark.slow
def test_the_install_cell_keeps_an_older_torch_and_numpy(tmp_path):
    """Run the cell in an environment with a real old numpy and a stand-in for an old torch.

    Only the address in the cell is changed: this checkout in place of the one on GitHub.
    """
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([python, *arguments], cwd=tmp_path, capture_output=True, text=True)

    older = run("-m", "pip", "install", f"numpy=={NUMPY}", str(torch_wheel(tmp_path)))
    if "(from versions: none)" in older.stderr:
        pytest.skip("no package index can be reached")
    assert older.returncode == 0, older.stderr

    # A copy, because building a package leaves files in its folder.
    copy = tmp_path / "checkout"
    shutil.copytree(ROOT / "qsft_lite", copy / "qsft_lite")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    assert INSTALL_CELL.count(ADDRESS) == 1
    cell = tmp_path / "cell.py"
    cell.write_text(INSTALL_CELL.replace(ADDRESS, copy.as_posix()))

    first = run(str(cell))
    assert first.returncode == 0, first.stdout + first.stderr
    report = run("-c", REPORT)
    assert report.stdout.split() == [NUMPY, NUMPY, TORCH, TORCH], report.stderr

    shutil.rmtree(copy)  # a second run must not try to install again
    second = run(str(cell))
    assert (second.returncode, second.stdout + second.stderr) == (0, "")
