"""One run of a notebook, a study or a benchmark: its profile, seed and device, and its numbers."""

from __future__ import annotations

import difflib
import io
import os
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from qsft_lite.files import replace_file
from qsft_lite.results.provenance import project_root, provenance
from qsft_lite.results.record import PROFILES, RESULT_PROFILES, write_result

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Run:
    """One run of a notebook; made by ``start``."""

    name: str
    profile: str
    seed: int
    profiles: dict[str, dict[str, Any]]
    """The settings of every profile."""
    device: torch.device
    threads: int
    """CPU threads that torch uses."""
    started: float
    """Clock reading (``time.perf_counter``, seconds) at the start."""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the active profile."""
        return self.profiles[self.profile]

    def seeds(self, count: int, first: int = 0) -> list[int]:
        """``count`` seeds that runs of other seeds do not share: seed 0 has first, first + 1, ...

        So that seeds 100, 101, ... of a notebook that needs twenty seeds are independent runs.
        """
        return [(10_000 * self.seed + first + i) % 2**32 for i in range(count)]

    def settings_table(self) -> pd.DataFrame:
        """One row a setting, one column a profile; the active profile's column says so."""
        table = pd.DataFrame(self.profiles, dtype=object)[list(PROFILES)]
        return table.rename(columns={self.profile: f"{self.profile} (this run)"})

    def save_figure(self, figure: Figure, name: str) -> Path:
        """Save a picture as ``<name>.png`` in QSFT_FIGURES (default build/figures)."""
        path = _folder("QSFT_FIGURES", "figures") / f"{name}.png"
        picture = io.BytesIO()
        # Without the library's name in it, the file changes only when the picture does.
        figure.savefig(
            picture, format="png", dpi=150, bbox_inches="tight", metadata={"Software": None}
        )
        replace_file(path, picture.getvalue())
        return path

    def record(
        self,
        *,
        headline: dict[str, Any],
        tables: dict[str, list[dict[str, Any]]] | None = None,
        raw: dict[str, Any] | list[Any] | None = None,
        data_hash: str | None = None,
    ) -> None:
        """Write ``<name>.<profile>.json`` to QSFT_RESULTS (default build/results).

        Args:
            headline: the few numbers to quote, by name; a value is a number, or a dict with
                ``mean``, ``low`` and ``high``.
            tables: rows by table name; the rows of one table have the same keys.
            raw: the scores that the headline was computed from.
            data_hash: hash of the data the numbers depend on.

        Raises ValueError or TypeError, naming the key, as ``write_result``.
        """
        result = {
            "name": self.name,
            "profile": self.profile,
            "settings": self.settings,
            "seed": self.seed,
            **provenance(),
            "device": _device_name(self.device),
            "threads": self.threads,
            "seconds": time.perf_counter() - self.started,
            "peak_memory_mib": peak_memory_mib(),
            "data_hash": data_hash,
            "headline": headline,
            "tables": tables or {},
            "raw": raw,
        }
        # The file name alone: the text of an executed notebook is the same on every machine.
        print(f"Recorded {write_result(_folder('QSFT_RESULTS', 'results'), result).name}")


def start(
    name: str,
    *,
    profile: str,
    seed: int,
    settings: dict[str, dict[str, Any]],
    threads: int | None = None,
) -> Run:
    """Set up a notebook: check the profile, seed everything, choose device and threads.

    Seeds Python's ``random``, numpy's global generator and torch. The device is CUDA where torch
    finds it, else the CPU. torch gets the CPUs this process may use, at most 4 (the small models
    here gain nothing from more), or `threads`, or, before both, QSFT_THREADS.

    Args:
        name: the notebook's file name without its ending; results are stored under it.
        profile: "smoke", "laptop" or "gpu"; or "record", where the settings have it.
        seed: an integer in [0, 2**32).
        settings: a dict of settings for each profile, all with the same keys.
        threads: CPU threads for torch. 1 where tensors are tiny: there, threads only get in each
            other's way.

    Raises:
        ValueError: an unknown profile, a profile without settings, or a seed out of range.
    """
    known = tuple(name for name in RESULT_PROFILES if name in settings or name in PROFILES)
    if profile not in known:
        nearest = difflib.get_close_matches(str(profile), known, n=1, cutoff=0)[0]
        raise ValueError(f"unknown profile {profile!r}: did you mean {nearest!r}? Known: {known}")
    if set(settings) != set(known):
        raise ValueError(f"settings must have the profiles {PROFILES}, not {tuple(settings)}")
    for other in known:
        if different := set(settings[other]) ^ set(settings[profile]):
            raise ValueError(f"profiles {profile!r} and {other!r} differ in {sorted(different)}")
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise ValueError(f"seed must be an integer in [0, 2**32), not {seed!r}")

    import torch  # here, so that running notebooks from outside does not load it

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    threads = _threads(threads)
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Run(name, profile, seed, settings, device, threads, time.perf_counter())


def usable_cpus() -> int:
    """CPUs that this process may use: on Linux those of its affinity, else all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory_mib() -> float:
    """Memory (MiB) that a new process can have: of the machine, or of its container (cgroup v2)."""
    import psutil

    machine = psutil.virtual_memory().available
    try:
        limit, used = (
            int(Path("/sys/fs/cgroup", name).read_text())
            for name in ("memory.max", "memory.current")
        )
    except (OSError, ValueError):  # no such control group, or one without a limit ("max")
        return machine / 2**20
    return min(machine, max(limit - used, 0)) / 2**20


def peak_memory_mib() -> float:
    """The most memory this process has held so far (resident, MiB)."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset / 2**20
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes on macOS, else KiB


def _threads(chosen: int | None) -> int:
    default = min(usable_cpus(), 4) if chosen is None else chosen
    wanted = os.environ.get("QSFT_THREADS") or str(default)
    if not wanted.isdecimal() or int(wanted) == 0:
        raise ValueError(f"threads (or QSFT_THREADS) must be a whole number above 0: {wanted!r}")
    return int(wanted)


def _device_name(device: torch.device) -> str:
    if device.type == "cpu":
        return "cpu"
    import torch

    return f"cuda ({torch.cuda.get_device_name(device)})"


def _folder(variable: str, default: str) -> Path:
    return Path(os.environ.get(variable) or project_root() / "build" / default)
