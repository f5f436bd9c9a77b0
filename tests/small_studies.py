"""Studies at their smallest: fewer games than at smoke, and their command line as a process."""

import shutil
import subprocess
import sys
from os import environ, pathsep

import pytest
from places import ROOT

LESS = {
    "gridworld": {"games": 100, "behavior_epochs": 1.0},
    "endgames": {"games": 60, "value_games": 40},
    "wordle": {"games": 150, "value_games": 100},
    "twenty_questions": {"games": 150, "value_games": 100},
    "manipulation": {"games": 30, "validation_games": 2, "test_games": 4},
}
needs_stockfish = pytest.mark.skipif(
    not shutil.which("stockfish", path=f"/usr/games{pathsep}{environ.get('PATH', '')}"),
    reason="apt install stockfish",
)


def command(*arguments, processes=None, **variables):
    """A study's command line as a process; under torchrun, if so many processes are asked for."""
    start = [sys.executable, "-m"]
    if processes:
        start += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    return subprocess.Popen(
        [*start, "qsft_lite.study", *map(str, arguments)],
        env={
            **environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "QSFT_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo",
            **variables,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
