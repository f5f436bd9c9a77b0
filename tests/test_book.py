"""The website: small sites are built, and each way to break one must fail the build."""

import base64
import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from tools import book

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.filterwarnings("ignore:.*Check CHANGES for Sphinx")  # of the extensions
GITHUB = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
PHONE = 390  # pixels wide
# What is wider than the page and lies in nothing that scrolls.
CUT_OFF = """(width) => [...document.querySelectorAll("article *")].filter((element) => {
  if (element.getBoundingClientRect().right <= width + 1) return false;
  for (let around = element; around.tagName !== "BODY"; around = around.parentElement) {
    if (["auto", "scroll"].includes(getComputedStyle(around).overflowX)) return false;
  }
  return true;
}).map((element) => element.outerHTML.slice(0, 200))"""
PNG = bytes.fromhex(  # one white pixel
    "89504e470d0a1a0a0000000d4948445200000001000000010800000000"
    "3a7e9b550000000a49444154789c63f80f0001010100185d3a230000000049454e44ae426082"
)
PAGE = """\
# Install

[chapter](../notebooks/02_b.ipynb#the-second-part) [home](../README.md#two-commands)
[code](../qsft_lite/loss.py#L3) [folder](../qsft_lite) [page](results/wordle.md)

![a picture](../figures/a.png)
"""


def notebook(title: str) -> str:
    """Return a committed notebook whose one code cell would fail if it were run."""
    output = {"output_type": "stream", "name": "stdout", "text": ["a committed output\n"]}
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": ["w"]}
    shown = {"output_type": "display_data", "data": widget, "metadata": {}}
    picture = {
        "output_type": "display_data",
        "data": {"image/png": base64.b64encode(PNG).decode(), "text/plain": ["a picture"]},
        "metadata": {"image/png": {"alt": "Nothing but white."}},
    }
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": f"# {title}\n\n$\\tfrac{{1}}{{2}}$"},
        {
            "cell_type": "code",
            "execution_count": 1,
            "metadata": {"jupyter": {"source_hidden": True}},
            "outputs": [output, shown, picture],
            "source": "raise SystemExit('this cell was run')",
        },
        {"cell_type": "markdown", "metadata": {}, "source": "## The second part\n\nText."},
    ]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3"},
        "language_info": {"name": "python"},
    }
    return json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})


@pytest.fixture
def site(tmp_path):
    """A repository with a README, two chapters, two pages, a picture and code."""
    files = {
        "README.md": "# Small\n\n[![Badge](https://example.org/b.svg)](https://example.org)\n\n"
        "## Two commands\n\n[start](notebooks/02_b.ipynb) [install](docs/install.md)\n",
        "notebooks/10_c.ipynb": notebook("10 C"),
        "notebooks/02_b.ipynb": notebook("02 B"),
        "docs/install.md": PAGE,
        "docs/results/wordle.md": "# Wordle\n\n[back](../install.md)\n",
        "qsft_lite/loss.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/a.png").write_bytes(PNG)
    return tmp_path


def build(site: Path) -> int:
    return book.build(site, site / "build/book")


def links(page: str) -> list[str]:
    """Return where the text of a page leads, without the theme's own links around it."""
    article = page[page.index("<article") : page.index("</article>")]
    return re.findall(r'<a [^>]*href="([^"]+)"', article)


def test_a_site_is_built_and_its_links_lead_where_they_should(site):
    assert build(site) == 0
    html = site / "build/book/html"
    found = links((html / "docs/install.html").read_text())
    assert [link for link in found if link != "#install"] == [
        "../notebooks/02_b.html#the-second-part",
        "../index.html#two-commands",
        f"{GITHUB}/blob/main/qsft_lite/loss.py#L3",
        f"{GITHUB}/tree/main/qsft_lite",
        "results/wordle.html",
    ]
    home = (html / "index.html").read_text()
    assert home.index("notebooks/02_b.html") < home.index("notebooks/10_c.html")
    assert "b.svg" not in home and ">Badge<" in home


def test_a_chapter_shows_its_committed_outputs_and_is_not_run(site):
    assert build(site) == 0
    chapter = (site / "build/book/html/notebooks/02_b.html").read_text()
    assert "a committed output" in chapter
    assert "this cell was run" in chapter  # as code
    assert chapter.count("tag_hide-input") == 1
    assert 'alt="Nothing but white."' in chapter
    assert r"\(\tfrac{1}{2}\)" in chapter
    assert "widget-view" not in chapter
    assert 'src="../_static/tex-svg-full.js' in chapter
    assert (site / "build/book/html/_static/tex-svg-full.js").stat().st_size > 1_000_000


@pytest.mark.parametrize(
    ("added", "said"),
    [
        ("[gone](../notebooks/03_gone.ipynb)", "03_gone.ipynb"),
        ("[gone](gone.md)", "gone.md"),
        ("[gone](#no-such-heading)", "no-such-heading"),
        ("[gone](../notebooks/02_b.ipynb#no-such-heading)", "no-such-heading"),
        ("[gone](../qsft_lite/gone.py)", "gone.py"),
        ("![gone](../figures/gone.png)", "gone.png"),
        ('<a href="gone.html">gone</a>', "gone.html"),
        ('<script src="https://example.org/x.js"></script>', "https://example.org/x.js"),
    ],
)
def test_what_leads_nowhere_fails_the_build(site, added, said, capsys):
    with (site / "docs/install.md").open("a") as file:
        file.write(f"\n{added}\n")
    assert build(site) == 1
    printed = capsys.readouterr()
    assert said in printed.out + printed.err


def test_a_broken_page_fails_the_second_build_too(site):
    (site / "docs/gone.md").write_text("# Gone\n\n[gone](nowhere.md)\n")
    assert [build(site), build(site)] == [1, 1]


def test_a_site_without_docs_is_built(site):
    (site / "docs/install.md").unlink()
    (site / "docs/results/wordle.md").unlink()
    (site / "README.md").write_text("# Small\n")
    assert build(site) == 0


def test_pages_stand_in_their_reading_order():
    names = ["log", "a_new_page", "install", "architecture", "paper"]
    ordered = sorted((Path(f"docs/{name}.md") for name in names), key=book.reading_order)
    expected = ["install", "paper", "architecture", "log", "a_new_page"]
    assert [page.stem for page in ordered] == expected


def test_the_links_of_finished_pages_are_looked_up(tmp_path):
    (tmp_path / "a.html").write_text(
        '<p id="here"><a href="#here"><a href="b.html"><a href="b.html#there">'
        '<a href="https://example.org/not/visited"><img src="data:image/png;base64,AA==">'
    )
    (tmp_path / "b.html").write_text('<p id="there"><a href="c.html"><a href="a.html#gone">')
    assert list(book.problems(tmp_path)) == [
        "b.html links to c.html: there is no such file",
        "b.html links to a.html#gone: that page has no such place",
    ]


def test_the_address_of_the_repository_is_pyproject_s():
    assert f'"repository_url": "{GITHUB}"' in (ROOT / "docs/conf.py").read_text()


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason=f"none of {', '.join(BROWSERS)} is installed")
def test_every_page_fits_a_phone_and_sets_its_formulas_without_a_network(tmp_path):
    playwright_api = pytest.importorskip("playwright.sync_api", reason="no playwright")
    assert book.build(ROOT, tmp_path) == 0
    pages = [p for p in (tmp_path / "html").rglob("*.html") if p.parent.name != "_static"]
    formulas = 0
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": PHONE, "height": 844})
        page.context.set_offline(True)
        for file in pages:
            page.goto(file.as_uri())
            if page.locator(".math").count():
                page.evaluate("MathJax.startup.promise")
            assert page.evaluate("document.documentElement.scrollWidth") == PHONE, file.name
            assert page.evaluate(CUT_OFF, PHONE) == [], file.name
            assert page.locator("mjx-container").count() == page.locator(".math").count()
            assert page.locator("[data-mml-node=merror]").count() == 0, file.name
            formulas += page.locator("mjx-container").count()
        browser.close()
    assert formulas > 0
