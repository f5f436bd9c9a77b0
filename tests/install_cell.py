"""The guarded install cell that every notebook begins with."""

INSTALL_CELL = """\
import importlib.util
import subprocess
import sys
from importlib import metadata

if importlib.util.find_spec("qsft_lite") is None:  # on Colab: install, but keep its torch and numpy
    there = [name for name in ("numpy", "torch") if importlib.util.find_spec(name)]
    keep = [f"{name}=={metadata.version(name)}" for name in there]
    source = "git+https://github.com/qsft-lite/qsft_lite"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", *keep, source], check=True)
    importlib.invalidate_caches()\
"""
