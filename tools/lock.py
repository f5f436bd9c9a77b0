"""Write requirements.lock anew, with today's versions, and the same versions into environment.yml.

    make lock

Maintainers only. The resolving is uv's; this file leaves out torch's CUDA packages, because
tools/set_up.py decides which build of torch a machine gets.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
TORCH = "torch==2.13.0"  # the version that the recorded results were made with
CUDA = ("nvidia-", "cuda-", "triton==")
HEADER = """\
# Exact versions for Python 3.10 to 3.13 on Linux, macOS and Windows. Made by: make lock
# (uv pip compile --universal --all-extras pyproject.toml, less torch's CUDA packages).
# tools/set_up.py uses them, as would: pip install --constraint requirements.lock ...
"""
CONDA_NAMES = {"torch": "pytorch"}
CONDA_PYTHON = {
    "python_version": "3.11",
    "python_full_version": "3.11.9",
    "sys_platform": "linux",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "implementation_name": "cpython",
}


def resolve() -> list[str]:
    """Return uv's answer, one requirement a line."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--universal", "--all-extras"]
    command += ["--python-version", "3.10", "--no-python-downloads", "--no-config", "--quiet"]
    command += ["--no-annotate", "--no-header", "--constraints", "-", "pyproject.toml"]
    done = subprocess.run(
        command, cwd=ROOT, input=TORCH, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout.splitlines()


def without_cuda(lines: list[str]) -> list[str]:
    """Leave out what only the CUDA build of torch needs."""
    return [line for line in lines if not line.startswith(CUDA)]


def pins(lines: list[str]) -> dict[str, str]:
    """Return the version of each package for Python 3.11 on Linux, which environment.yml has."""
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {
        need.name: next(iter(need.specifier)).version
        for need in requirements
        if need.marker is None or need.marker.evaluate(CONDA_PYTHON)
    }


def with_pins(environment: str, versions: dict[str, str]) -> str:
    """Return the text of environment.yml with each package it names at the lock's version."""
    for name, version in versions.items():
        conda = re.escape(CONDA_NAMES.get(name, name))
        environment = re.sub(rf"(?m)^(\s*- {conda}==?)[\w.]+$", rf"\g<1>{version}", environment)
    return environment


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    aside = path.with_suffix(path.suffix + ".new")
    aside.write_text(text)
    os.replace(aside, path)


def main() -> None:
    """Write both files."""
    lines = without_cuda(resolve())
    environment = ROOT / "environment.yml"
    write(ROOT / "requirements.lock", HEADER + "\n".join(lines) + "\n")
    write(environment, with_pins(environment.read_text(), pins(lines)))


if __name__ == "__main__":
    main()
