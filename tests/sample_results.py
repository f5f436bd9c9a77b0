"""Results that tests write."""

from qsft_lite import results


def a_result(folder, name, **changes):
    """Write the result that a notebook of this name has committed."""
    result = {key: kind() if isinstance(kind, type) else 0 for key, kind in results.KEYS.items()}
    result |= {"name": name, "profile": "laptop", "data_hash": None, "raw": None, **changes}
    results.write_result(folder / "data" / "results", result)


def some_results(values, seeds=None):
    """What several runs of a notebook have recorded, as far as a spread looks at it."""
    return [
        {
            **{"name": "00_a", "profile": "laptop", "settings": {"n": 2}, "seconds": 1.0},
            **{"seed": seed, "threads": 1, "headline": {"score": value}},
        }
        for seed, value in zip(seeds or range(100, 200), values, strict=False)
    ]
