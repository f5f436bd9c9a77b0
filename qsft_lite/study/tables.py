"""Tables of a study: what each method scored, over seeds and games, and what was measured of it.

    python -m qsft_lite.study tables data/results/wordle_methods.record.json

computes the tables of recorded results anew from the scores that they hold; nothing is trained.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from qsft_lite.baselines.choosing import ENDS, GREEDY_BETA
from qsft_lite.evaluate import normalized_score
from qsft_lite.results import load_result, provenance, write_result

__all__ = ["edges_of", "interval", "measures", "retable", "score_rows", "table"]

UNITS = "positions"  # in a record's raw part: what each test game starts from


def table(
    found: list[dict[str, Any]],
    lowest: float,
    data_mean: float,
    best: float,
    units: list[Any] | None = None,
) -> list[dict[str, Any]]:
    """A row for each method, see ``score_rows``, with normalised scores and what else is known.

    lowest, data_mean, best: the scores that are normalised to 0, 50 and 100.
    """
    rows = []
    for row, (title, score) in zip(score_rows(found, units), _keys(found), strict=True):
        entries = [seed[title]["scores"][score] for seed in found]
        described = [entry.get("described", {}) for entry in entries]
        mean = max(row["score"]["mean"], lowest)
        known = lowest < data_mean < best
        rows.append(
            {
                **row,
                "normalised": normalized_score(mean, lowest, data_mean, best) if known else None,
                "wins": float(np.mean([entry["success"] for entry in entries])),
                **{name: _mean([one[name] for one in described]) for name in described[0]},
            }
        )
    return rows


def score_rows(found: list[dict[str, Any]], units: list[Any] | None = None) -> list[dict[str, Any]]:
    """A row for each method: its score, and its score less sharpened cloning's, game by game.

    Intervals are those of ``interval``. The seeds' own means stand beside them, and how many seeds
    chose an option at an end of what was tried, beyond which a better one may lie: such a score is
    a lower bound of what the method can do.

    units: what each test game is about, see ``interval``.
    """

    def returns(title: str, score: str) -> np.ndarray:
        return np.array([seed[title]["scores"][score]["returns"] for seed in found])

    rows = []
    (first, its_score), *_ = _keys(found)  # sharpened cloning
    cloning = returns(first, its_score)
    for title, score in _keys(found):
        games = returns(title, score)
        edges = [
            edge
            for seed in found
            for edge in edges_of(
                *(seed[title]["scores"][score][key] for key in ("options", "grid"))
            )
        ]
        counts = {edge: f"{edge} ({edges.count(edge)} of {len(found)})" for edge in sorted(edges)}
        rows.append(
            {
                "method": title + {"p": ", by p", "ratio": ", by p/pi"}.get(score, ""),
                "score": interval(games, units),
                "over sharpened cloning": interval(games - cloning, units),
                "seeds": ", ".join(f"{mean:.2f}" for mean in games.mean(1)),
                "at the grid's edge": ", ".join(counts.values()) or None,
            }
        )
    return rows


def interval(scores: np.ndarray, units: list[Any] | None = None) -> dict[str, float]:
    """The mean of scores (S, G) of S seeds in the same G games, and its 95 % interval.

    It says what other networks would score in other games. The seeds' part is a t interval of their
    means, on S - 1 degrees of freedom (a bootstrap of three seeds is far too narrow); the games'
    part is one of the games' means, of whose variance that within a game is left out, since the
    seeds' means have it already. Half widths add up as squares (as Graybill and Wang, 1980), and
    are never less than those over games alone: the means of three seeds may agree by chance. With
    one seed it is over games alone, and says nothing of other networks.

    units: what each game is about, where several are about the same, such as their start; those are
    not independent, and count as one. Each game its own without it.
    """
    scores = np.asarray(scores, dtype=float)
    mean = float(scores.mean())
    if units is not None:
        _, places = np.unique(units, return_inverse=True)
        sums = np.array([np.bincount(places, row) for row in scores])
        scores = sums * sums.shape[1] / scores.shape[1]  # has the same mean, over units
    seeds, games = scores.shape
    over_games = stats.t.ppf(0.975, games - 1) ** 2 * scores.mean(0).var(ddof=1) / games
    squared = over_games
    if seeds > 1:
        rest = scores - scores.mean(0) - scores.mean(1, keepdims=True) + scores.mean()
        within = (rest**2).sum() / ((seeds - 1) * (games - 1)) / scores.size
        within *= stats.t.ppf(0.975, games - 1) ** 2
        over_seeds = stats.t.ppf(0.975, seeds - 1) ** 2 * scores.mean(1).var(ddof=1) / seeds
        squared = max(over_seeds + max(over_games - within, 0.0), over_games)
    half = float(np.sqrt(squared))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def edges_of(options: dict[str, Any], grid: list[dict[str, Any]]) -> list[str]:
    """Of the chosen beta and temperature, those that are the least or the largest tried.

    grid: all options tried. Natural ends (greedy, beta 0, temperature 1) are no edges. A beta is
    compared with those tried at the same temperature, and not at all where one alone was.
    """

    def temperature(one: dict[str, Any]) -> float | None:
        return (
            0.0 if one.get("greedy") and one.get("beta") != GREEDY_BETA else one.get("temperature")
        )

    own = temperature(options)
    tried = {
        "beta": {one.get("beta") for one in grid if temperature(one) == own},
        "temperature": {temperature(one) for one in grid},
    }
    found = []
    for axis, chosen in (("beta", options.get("beta")), ("temperature", own)):
        values = sorted(tried[axis] - {None})
        if len(values) > 1 and chosen not in ENDS[axis]:
            found += [f"least {axis}"] * (chosen == values[0])
            found += [f"largest {axis}"] * (chosen == values[-1])
    return found


def _keys(found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Titles and scores, a pair for each row of a table."""
    return [(title, score) for title, row in found[0].items() for score in row["scores"]]


def _mean(numbers: list[float]) -> float | None:
    """The mean of those that are numbers; None for none."""
    known = [number for number in numbers if not np.isnan(number)]
    return float(np.mean(known)) if known else None


def measures(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each method with what was measured of it, means over seeds; none for none."""

    def mean(title: str, name: str) -> float | None:
        if name not in found[0][title]["measured"]:
            return None
        return float(np.mean([seed[title]["measured"][name] for seed in found]))

    titles = [title for title in found[0] if found[0][title].get("measured")]
    names = dict.fromkeys(name for title in titles for name in found[0][title]["measured"])
    return [{"method": title} | {name: mean(title, name) for name in names} for title in titles]


def on_a_line(seed: dict[str, Any]) -> dict[str, Any]:
    """The scores of one seed, with returns, and the grid as JSON, each on one line: short files.

    Also of each method how long it took and the commit that ran it: a record is written at the end,
    perhaps by another.
    """
    return {
        title: {
            score: {
                **one,
                "grid": json.dumps(one["grid"]),
                "returns": " ".join(repr(value).removesuffix(".0") for value in one["returns"]),
                "described": {
                    name: None if np.isnan(value) else value
                    for name, value in one.get("described", {}).items()
                },
                "seconds": row["seconds"],
                "commit": row["commit"],
            }
            for score, one in row["scores"].items()
        }
        for title, row in seed.items()
    }


def _from_lines(seed: dict[str, Any]) -> dict[str, Any]:
    """The inverse of ``on_a_line``, for what a table is computed from."""

    def read(one: dict[str, Any]) -> dict[str, Any]:
        returns = [float(value) for value in one["returns"].split()]
        return {**one, "grid": json.loads(one["grid"]), "returns": returns}

    return {
        title: {"scores": {score: read(one) for score, one in row.items()}}
        for title, row in seed.items()
    }


def retable(path: Path) -> None:
    """Compute the scores, differences and edges of a recorded result's table anew, in its file.

    All else in it stays; "recomputed" says when and by which commit. Raises ValueError for a result
    that has no scores of seeds, such as a chapter's.
    """
    result = load_result(path)
    if "seeds" not in result["raw"]:
        raise ValueError(f"{path} is of no study: it has no scores of seeds")
    found = [_from_lines(seed) for seed in result["raw"]["seeds"]]
    rows = score_rows(found, result["raw"].get(UNITS))
    old = {row["method"]: row for row in result["tables"][result["name"]]}
    result["tables"][result["name"]] = [
        {
            **row,
            **{name: old[row["method"]][name] for name in old[row["method"]] if name not in row},
        }
        for row in rows
    ]
    result["headline"] |= {row["method"]: row["score"] for row in rows}
    result["recomputed"] = {key: provenance()[key] for key in ("date", "commit")}
    write_result(path.parent, result)
