"""Studies at their smallest: few games, few candidates, and what every one of them is run with."""

import shutil
import subprocess
import sys
from os import environ, pathsep

import pytest
from places import ROOT

GAMES = {"games": 100, "value_epochs": 1.0, "behavior_epochs": 1.0}  # of data
LESS = {"gridworld": GAMES, "endgames": {"games": 60, "value_games": 40}}
LESS |= {name: {"games": 150, "value_games": 100} for name in ("wordle", "twenty_questions")}
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
