"""How headline numbers spread over seeds: notebooks run with fresh ones, every cell.

The command line is ``python -m qsft_lite.notebook check``; ``data/spread`` keeps what it measures.
"""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qsft_lite.files import replace_file
from qsft_lite.notebook import runner
from qsft_lite.notebook.several import execute_one
from qsft_lite.results import format_cell, name_of, provenance
from qsft_lite.results.compare import number

SPREADS = Path("data") / "spread"


def check(
    paths: Sequence[Path],
    *,
    seeds: Sequence[int],
    profile: str,
    output: Path,
    write: bool,
    threads: Sequence[int] = (),
) -> int:
    """Run notebooks with each seed, all cells whatever fails; print what fails and the spread.

    threads: counts of CPU threads, and each seed runs with all of them; those that the notebook
    says if empty.

    What was executed goes to ``output``, spreads to ``output/spread``; with ``write``, those of
    notebooks without a failing cell to ``data/spread``, too. Returns the exit status: 1 if any cell
    failed, else 0. Raises ParameterError, before anything runs, for a notebook without PROFILE or
    SEED.
    """
    for path in paths:
        runner.read_checked(path, {"PROFILE": profile, "SEED": seeds[0]})
    runner.check_place(output / "a_notebook.ipynb")
    status = 0
    for path in paths:
        recorded, failed = [], False
        for seed, count in itertools.product(seeds, threads or [None]):
            name = f"seed_{seed}" if count is None else f"seed_{seed}_threads_{count}"
            variables = {} if count is None else {"QSFT_THREADS": str(count)}
            parameters = {"PROFILE": profile, "SEED": seed}
            outcome = execute_one(path, parameters, output / name, variables, allow_errors=True)
            recorded += [outcome.result] if outcome.result else []
            failures = failing_cells(outcome.error) if outcome.error else []
            failed |= bool(failures)
            seconds = f"{outcome.seconds:.0f} s"
            run = f"{path.stem}, {name.replace('_', ' ')}: {seconds}"
            print(f"{run}, cells that failed: {len(failures)}")
            print("".join(f"  {line}\n" for line in failures), end="", flush=True)
        status |= failed
        if not recorded:
            print(f"{path.stem}: no run recorded its numbers")
            continue
        spread = spread_of(recorded)
        options = f"--seeds {len(seeds)} --first-seed {seeds[0]} --profile {profile}"
        options += f" --threads {' '.join(map(str, threads))}" if threads else ""
        place = shlex.quote(path.as_posix())
        spread["command"] = f"python -m qsft_lite.notebook check {place} {options}"
        print(_spread_table(spread))
        content = (json.dumps(spread, indent=1, allow_nan=False) + "\n").encode()
        replace_file(output / "spread" / name_of(spread), content)
        if write and failed:
            print(f"{path.stem}: not stored in {SPREADS}, since cells failed")
        elif write:
            replace_file(SPREADS / name_of(spread), content)
    return status


def failing_cells(error: runner.NotebookError) -> list[str]:
    """Number among the code cells, first line and error of every cell that failed.

    Of a run that ended before its last cell, as where a kernel died, the error itself.
    """
    lines = []
    cells = error.partial.cells if error.partial else []
    cells = [cell for cell in cells if cell.cell_type == "code" and not runner.added(cell)]
    for place, cell in enumerate(cells, 1):
        for output in cell.outputs:
            if output.output_type == "error":
                first = (cell.source.strip().splitlines() or [""])[0]
                why = (str(output.evalue).splitlines() or [""])[0]
                lines.append(f"code cell {place} ({first!r}): {output.ename}: {why}")
    return lines or [str(error)]


def spread_of(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The spread of the headline numbers of one notebook's results, each with another seed.

    Of a number with an interval, its mean. ``deviation`` is the standard deviation over seeds,
    unbiased in their number; None where there is one seed only.
    """
    headline = {}
    for name in dict.fromkeys(name for result in results for name in result["headline"]):
        found = [r["headline"][name] for r in results if name in r["headline"]]
        values = np.array([number(value) for value in found], dtype=float)
        headline[name] = {
            "mean": float(values.mean()),
            "least": float(values.min()),
            "greatest": float(values.max()),
            "deviation": float(values.std(ddof=1)) if len(values) > 1 else None,
            "seeds": len(values),
            "values": values.tolist(),
        }
    return {
        **{key: results[0][key] for key in ("name", "profile", "settings")},
        **provenance(),
        "runs": [{key: one[key] for key in ("seed", "threads", "seconds")} for one in results],
        "headline": headline,
    }


def _spread_table(spread: dict[str, Any]) -> str:
    columns = ("mean", "least", "greatest", "deviation")
    rows = [[format_cell(row[column]) for column in columns] for row in spread["headline"].values()]
    return f"{spread['name']}:\n{pd.DataFrame(rows, spread['headline'], columns).to_string()}"
