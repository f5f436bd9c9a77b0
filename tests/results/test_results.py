"""Results are stored exactly, checked when read, and the README shows nothing else."""

import json
import math
import re
from pathlib import Path

import hypothesis.strategies as st
import nbformat
import numpy as np
import pytest
import torch
from hypothesis import given
from places import ROOT

from qsft_lite import results
from qsft_lite.results import pages
from qsft_lite.results.__main__ import main


def example(**changes):
    """A valid result."""
    return {
        "name": "01_exact",
        "profile": "laptop",
        "settings": {"seeds": 20},
        "seed": 0,
        "commit": "0123456789abcdef",
        "dirty": False,
        "command": "python -m qsft_lite.notebook run notebooks/01_exact.ipynb",
        "device": "cpu",
        "threads": 2,
        "platform": "Linux",
        "versions": {"python": "3.11"},
        "seconds": 61.2,
        "peak_memory_mib": 1234.5,
        "data_hash": None,
        "date": "2025-11-22T10:00:00+00:00",
        "headline": {"error": 0.37},
        "tables": {"values": [{"method": "BC", "max |y|": 0.5, "seeds": 20}]},
        "raw": None,
    } | changes


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False)))
def test_numbers_survive_exactly(tmp_path_factory, numbers):
    folder = tmp_path_factory.mktemp("results")
    results.write_result(folder, example(raw={"scores": numbers}))
    (loaded,) = results.load_results(folder)
    assert loaded["raw"]["scores"] == numbers
    assert loaded == example(raw={"scores": numbers})


def test_arrays_and_scalars_become_numbers(tmp_path):
    raw = {"a": np.arange(3), "b": np.float64(0.1), "c": torch.tensor([True]), "d": (1, None)}
    path = results.write_result(tmp_path, example(raw=raw))
    assert path == tmp_path / "01_exact.laptop.json"
    assert json.loads(path.read_text())["raw"] == {
        "a": [0, 1, 2],
        "b": 0.1,
        "c": [True],
        "d": [1, None],
    }


@pytest.mark.parametrize("bad", [math.nan, math.inf, np.float32("nan"), np.array([1, -np.inf])])
def test_a_number_that_json_lacks_is_refused_by_name(tmp_path, bad):
    with pytest.raises(ValueError, match=r"headline\.worst.* is (nan|-?inf)"):
        results.write_result(tmp_path, example(headline={"worst": bad}))
    assert list(tmp_path.iterdir()) == []


def test_a_value_without_place_in_json_is_refused_by_name(tmp_path):
    with pytest.raises(TypeError, match=r"raw\.paths\[1\] is a \w*Path"):
        results.write_result(tmp_path, example(raw={"paths": [1, Path("x")]}))


@pytest.mark.parametrize("key", results.KEYS)
def test_a_missing_key_is_named_with_its_file(tmp_path, key):
    results.write_result(tmp_path, example())
    path = tmp_path / "01_exact.laptop.json"
    path.write_text(json.dumps({k: v for k, v in example().items() if k != key}))
    with pytest.raises(ValueError, match=rf"01_exact\.laptop\.json: key '{key}' is missing"):
        results.load_results(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": "0"}, "'seed' has the wrong type"),
        ({"profile": "desktop"}, "'desktop' is not one of"),
        ({"name": "02_other"}, "holds 02_other at profile laptop"),
        ({"headline": {"x": "good"}}, r"headline\['x'\]"),
        ({"headline": {"x": {"mean": 1}}}, r"headline\['x'\]"),
        ({"tables": {"t": [{"a": 1}, {"b": 1}]}}, r"tables\['t'\]"),
        ({"tables": {"t": []}}, r"tables\['t'\]"),
    ],
)
def test_a_wrong_result_is_refused(tmp_path, change, message):
    (tmp_path / "01_exact.laptop.json").write_text(json.dumps(example(**change)))
    with pytest.raises(ValueError, match=rf"01_exact\.laptop\.json: .*{message}"):
        results.load_results(tmp_path)


@pytest.mark.parametrize("text", ["{", "", "[1]"])
def test_a_broken_file_is_named(tmp_path, text):
    (tmp_path / "x.smoke.json").write_text(text)
    with pytest.raises(ValueError, match=r"x\.smoke\.json"):
        results.load_results(tmp_path)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.5, "0.500"),
        (-12.345, "-12.3"),
        (123.4, "123"),
        (12345.6, "12,346"),
        (0.0, "0.00"),
        (2.5e-9, "2.50e-09"),
        (20, "20"),
        (None, "-"),
        ("max |y - Q*|", r"max \|y - Q*\|"),
        (6.89e-19, "0.00"),
        (-6.89e-19, "0.00"),
        ({"mean": 0.5, "low": 0.25, "high": 1.0}, "0.50 [0.25, 1.00]"),
        ({"mean": 0.0109, "low": 6.89e-19, "high": 0.0217}, "0.011 [0.000, 0.022]"),
        ({"mean": -4.35e-4, "low": -1.37e-3, "high": 3.52e-4}, "-0.0004 [-0.0014, 0.0004]"),
        ({"mean": -1.186, "low": -1.212, "high": -1.1596}, "-1.19 [-1.21, -1.16]"),
        ({"mean": -0.004, "low": -0.5, "high": 0.5}, "0.00 [-0.50, 0.50]"),
        ({"mean": -23.95, "low": -26.2, "high": -21.7}, "-24 [-26, -22]"),
        ({"mean": 1.0, "low": 1.0, "high": 1.0}, "1.00"),
    ],
)
def test_cells(value, shown):
    assert results.format_cell(value) == shown


@given(st.floats(min_value=1e-11, max_value=1e30))
def test_a_shown_float_is_right_to_three_digits(value):
    shown = float(results.format_cell(value).replace(",", ""))
    assert shown == pytest.approx(value, rel=0.005 + 1e-9)


@pytest.fixture
def project(tmp_path):
    """A folder with a README, two notebooks and results for one of them."""
    for name, title in [("01_exact", "01 · Exact answers"), ("02_loss", "The loss")]:
        cells = [nbformat.v4.new_markdown_cell(f"badges\n# {title}\ntext")]
        (tmp_path / "notebooks").mkdir(exist_ok=True)
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / f"notebooks/{name}.ipynb")
    data = tmp_path / "data" / "results"
    results.write_result(data, example())
    results.write_result(data, example(profile="smoke", seconds=3.2, tables={}))
    (tmp_path / "README.md").write_text(
        "before\n<!-- table:notebooks -->\n<!-- /table -->\nbetween\n"
        "<!-- table:values -->\nstale\n<!-- /table -->\nafter\n"
    )
    return tmp_path


def test_render_and_check(project, capsys, monkeypatch):
    monkeypatch.setattr(pages, "repository", lambda: "https://github.com/someone/something")
    readme, root = project / "README.md", ["--root", str(project)]
    assert main([str(readme), *root, "--check"]) == 1
    assert "not current" in capsys.readouterr().out
    assert "stale" in readme.read_text(), "--check must not write"
    assert main([str(readme), *root]) == 0
    assert main([str(readme), *root, "--check"]) == 0
    badge = (
        "[![Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
        "(https://colab.research.google.com/github/someone/something/blob/main/notebooks/{})"
    )
    assert readme.read_text() == (
        "before\n<!-- table:notebooks -->\n"
        "| notebook | open | smoke | laptop | gpu |\n"
        "| --- | --- | --- | --- | --- |\n"
        f"| [01 Exact answers](notebooks/01_exact.ipynb) | {badge.format('01_exact.ipynb')} "
        "| 4 s, 1,234 MiB | 1 min 2 s, 1,234 MiB | - |\n"
        f"| [02 The loss](notebooks/02_loss.ipynb) | {badge.format('02_loss.ipynb')} "
        "| - | - | - |\n"
        "<!-- /table -->\nbetween\n<!-- table:values -->\n"
        "| method | max \\|y\\| | seeds |\n| --- | --- | --- |\n| BC | 0.500 | 20 |\n\n"
        "Source: `data/results/01_exact.laptop.json`, 2025-11-22, commit 0123456, "
        "`python -m qsft_lite.notebook run notebooks/01_exact.ipynb`.\n"
        "<!-- /table -->\nafter\n"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table:nothing -->\n<!-- /table -->", "'nothing': no result holds it.*values"),
        ("<!-- table:values -->\n", "needs one"),
        ("<!-- table:values -->\n<!-- table:values -->\n<!-- /table -->", "needs one"),
        ("<!-- /table -->", "needs one"),
    ],
)
def test_a_wrong_marker_is_refused(project, text, message):
    with pytest.raises(ValueError, match=message):
        results.render(text, project)


def test_every_marked_page_is_rendered_with_links_that_lead_somewhere(project, capsys):
    page = project / "docs" / "results" / "all.md"
    page.parent.mkdir(parents=True)
    page.write_text("<!-- table:notebooks -->\n<!-- /table -->\n")
    (project / "docs" / "plain.md").write_text("About `<!-- table:NAME -->` in a line.\n")
    assert main(["--root", str(project)]) == 0
    assert "stale" not in (project / "README.md").read_text()
    links = re.findall(r"\]\(([^):]*ipynb)\)", page.read_text())
    assert [Path(link).name for link in links] == ["01_exact.ipynb", "02_loss.ipynb"]
    assert all((page.parent / link).exists() for link in links)
    page.write_text("<!-- table:nothing -->\n<!-- /table -->\n")
    assert main(["--root", str(project), "--check"]) == 1
    assert "all.md: table 'nothing': no result holds it" in capsys.readouterr().err


def test_a_recomputed_table_says_so(project):
    text = "<!-- table:{0} -->\n<!-- /table -->\n"
    anew = {"recomputed": {"date": "2025-12-01T00:00:00+00:00", "commit": "76543210fedcba"}}
    rows = [{"method": "BC"}]
    tables = {"tables": {"03_study": rows, "03_study_measured": rows}}
    results.write_result(project / "data/results", example(name="03_study", **tables, **anew))
    shown = results.render(text.format("03_study"), project)
    assert "commit 0123456" in shown and "recomputed from its scores, 2025-12-01." in shown
    assert "recomputed" not in results.render(text.format("03_study_measured"), project)


def test_a_table_in_two_results_is_refused(project):
    results.write_result(project / "data/results", example(name="02_loss"))
    with pytest.raises(ValueError, match="2 results hold it"):
        results.render("<!-- table:values -->\n<!-- /table -->", project)


def test_the_address_is_that_of_pyproject():
    assert f'Repository = "{results.repository()}"' in (ROOT / "pyproject.toml").read_text()
