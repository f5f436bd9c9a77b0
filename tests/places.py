"""Where the repository is, and the genuine data beside it, which not every reader has."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"
