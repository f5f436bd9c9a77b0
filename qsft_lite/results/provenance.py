"""Where a number comes from: the commit, the command, the machine and the project's address."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any


def provenance() -> dict[str, Any]:
    """Commit, command, platform, library versions and date (UTC) of the running process."""
    commit, dirty = _commit()
    return {
        "commit": commit,
        "dirty": dirty,
        "command": os.environ.get("QSFT_COMMAND", "interactive"),
        "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "scipy", "torch", "qsft-lite")},
        },
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def project_root() -> Path:
    """The checkout this package is imported from; the working directory where there is none."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "pyproject.toml").exists() else Path.cwd()


def repository() -> str:
    """The project's public address, as pyproject.toml states it."""
    urls = metadata.metadata("qsft-lite").get_all("Project-URL") or []
    return dict(url.split(", ", 1) for url in urls)["Repository"]


def version(name: str) -> str:
    """A package's version, "missing" where there is none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


def _commit() -> tuple[str, bool]:
    """The full commit and whether tracked files differ from it; "unknown" outside git."""
    root = project_root()
    if not (root / ".git").exists():  # the package may be installed inside somebody's repository
        return "unknown", False
    describe = "git --no-optional-locks describe --always --dirty --abbrev=40 --exclude=*".split()
    try:
        answer = subprocess.run(describe, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no git, no commit yet, not our repository
        return "unknown", False
    commit = answer.stdout.strip()
    return commit.removesuffix("-dirty"), commit.endswith("-dirty")
