"""The README and the pages in docs show what was recorded, and nothing else."""

import json
import math
import re

import pytest
from places import ROOT

from qsft_lite import results
from qsft_lite.data import load_trajectories

README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULT_PAGES = sorted((ROOT / "docs" / "results").glob("*.md"))
TABLE = re.compile(r"^<!-- table:(\S+) -->\n.*?^<!-- /table -->$", re.DOTALL | re.MULTILINE)
MARKED = [
    page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if re.search(r"^<!-- /?table", page.read_text(encoding="utf-8"), re.MULTILINE)
]

# The rows of the README's headline table: name of the result, the methods that stand for one dummy
# and for ours, and the headline that says what the best play scores.
HEADLINE = {
    "Wordle, 40 words": (
        "wordle_forty_words",
        "Q-SFT, one dummy, by p/pi",
        "Q-SFT (ours)",
        "Optimum",
    ),
    "Twenty Questions, 20 objects": (
        "twenty_questions_twenty_objects",
        "Q-SFT, one dummy, by p/pi",
        "Q-SFT (ours)",
        "Optimum",
    ),
}


def table_rows(first_cell):
    """The rows of the README's table whose header begins with this cell, as lists of cells."""
    after = README[README.index(f"| {first_cell} |") :]
    lines = after[: after.index("\n\n")].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def load(name):
    return json.loads((ROOT / "data" / "results" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", MARKED, ids=lambda page: page.name)
def test_every_marked_table_is_current(page):
    text = page.read_text(encoding="utf-8")
    assert results.render(text, ROOT) == text, "run: python -m qsft_lite.results"


def test_every_page_of_results_opens_with_its_conclusion():
    assert {page.stem for page in RESULT_PAGES} >= {
        *("tabular", "gridworld", "wordle", "endgames", "chess", "twenty_questions", "speed"),
        "webshop",
        "alfworld",
    }
    for page in RESULT_PAGES:
        title, first, *_ = page.read_text(encoding="utf-8").split("\n\n")
        assert title.startswith("# "), page
        assert re.match(r"\*{0,2}[A-Z]", first), f"{page}: no paragraph after the title"
        assert 2 <= len(re.findall(r"\.\*{0,2}(?:\s|$)", first)) <= 6, f"{page}: some sentences"


def test_all_pages_of_results_are_in_the_index():
    index = (ROOT / "docs" / "results" / "README.md").read_text(encoding="utf-8")
    for page in RESULT_PAGES:
        assert page.name == "README.md" or f"]({page.name})" in index


def test_captions_of_studies_say_how_many_networks():
    """In one of the three paragraphs before the table, tables and their sources left out."""
    paths = (ROOT / "data/results").glob("*.[rg]*.json")  # record, or gpu
    studies = [path.name.split(".")[0] for path in paths]
    shown = 0
    for page in RESULT_PAGES:
        text = page.read_text(encoding="utf-8")
        for name in studies:
            if f"<!-- table:{name} -->" not in text:
                continue
            shown += 1
            before = text[: text.index(f"<!-- table:{name} -->")]
            paragraphs = TABLE.sub("", before).strip().split("\n\n")
            near = " ".join(paragraphs[-3:]).lower()
            assert re.search(r"(two|three|five|ten) networks|one network", near), name
    assert shown >= 10


def test_the_readme_is_one_page():
    assert len(README.splitlines()) <= 150
    assert len(README.encode()) <= 10_000
    first_screen = README.splitlines()[:20]
    assert any(line.startswith("make notebooks") for line in first_screen)
    assert any(line.startswith("make test") for line in first_screen)


def test_the_headline_table_is_what_was_recorded():
    rows = table_rows("task")
    assert [row[0] for row in rows] == list(HEADLINE)
    for task, networks, clone, ilql, dummy, ours, over, best in rows:
        name, dummy_row, method, optimum = HEADLINE[task]
        [path] = (ROOT / "data/results").glob(f"{name}.[rg]*.json")  # record, or gpu
        result = load(path.stem)
        scores = {row["method"]: row for row in result["tables"][name]}

        def score(row, scores=scores):
            return results.format_cell(scores[row]["score"]).split(" ")[0] if row in scores else "-"

        assert clone == score("Sharpened cloning"), task
        assert ilql == score("ILQL"), task
        assert dummy == score(dummy_row), task
        assert ours == score(method), task
        assert over == results.format_cell(scores[method]["over sharpened cloning"]), task
        assert int(networks) == len(scores[method]["seeds"].split(", ")), task
        assert best == f"{result['headline'][optimum]:.2f}", task


def test_the_chapters_are_those_of_the_folder_with_their_recorded_times():
    notebooks = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
    rows = table_rows("chapter")
    assert len(rows) == len(notebooks)
    for name, (chapter, question, time, badge) in zip(notebooks, rows, strict=True):
        number = name.split("_")[0].split(".")[0]
        assert re.fullmatch(rf"\[{number}[^]]*\]\(notebooks/{name}\)", chapter, re.IGNORECASE)
        assert question.endswith("?")
        minutes, seconds = divmod(math.ceil(load(f"{name[:-6]}.laptop")["seconds"]), 60)
        assert time == (f"{minutes} min {seconds} s" if minutes else f"{seconds} s"), name
        label = re.fullmatch(r"\[!\[Colab\]\[b\]\]\[(\w+)\]", badge)[1]
        image, target = re.findall(r"\((https://[^)]+)\)", results.badge(name))
        assert f"[b]: {image}\n" in README
        assert f"[{label}]: {target}\n" in README


@pytest.mark.parametrize("page", ["README.md", "docs/own_data.md"])
def test_the_example_of_an_episode_is_one(page, tmp_path):
    text = (ROOT / page).read_text(encoding="utf-8")
    (example,) = re.findall(r"^```json\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    (tmp_path / "games.jsonl").write_text(example, encoding="utf-8")
    (episode,) = load_trajectories(tmp_path / "games.jsonl")
    assert episode["is_action"] == [False, True, False]
    assert sum(episode["reward"]) == -1
