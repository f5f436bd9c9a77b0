"""Every link and image of the README, the pages in docs and the notebooks leads somewhere.

Addresses on the web are not visited, only checked to be addresses.
"""

import json
import re
from urllib.parse import unquote, urlsplit

import pytest
from places import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

FENCE = re.compile(r"^ *(```+|~~~+).*?^ *\1 *$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
MATH = re.compile(r"\$\$.*?\$\$|\$[^$\n]+\$", re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
INLINE = re.compile(r"\]\(\s*<?((?:[^\s()<>]|\([^\s()]*\))*)>?(?:\s+\"[^\"]*\")?\s*\)")
DEFINITION = re.compile(r"^ {0,3}\[([^\]]+)\]:\s+(\S+)", re.MULTILINE)
REFERENCE = re.compile(r"\]\[([^\]]+)\]")
HTML = re.compile(r"<(?:a|img)\b[^>]*?\b(?:href|src)=\"([^\"]*)\"")


def text_of(page):
    """The Markdown of a page or of a notebook's text cells."""
    content = page.read_text(encoding="utf-8")
    if page.suffix != ".ipynb":
        return content
    cells = json.loads(content)["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def prose_of(text):
    """Markdown without what is shown as it is written: code, formulas, comments."""
    for pattern in (FENCE, COMMENT, CODE, MATH):
        text = pattern.sub("", text)
    return text


def links_of(text):
    """The targets of all links and images, and the reference names that nothing defines."""
    prose = prose_of(text)
    defined = {name.lower(): target for name, target in DEFINITION.findall(prose)}
    undefined = [name for name in REFERENCE.findall(prose) if name.lower() not in defined]
    return [*INLINE.findall(prose), *defined.values(), *HTML.findall(prose)], undefined


def anchors_of(text):
    """The anchors that GitHub gives to the headings of a page."""
    text = COMMENT.sub("", FENCE.sub("", text))
    anchors: list[str] = []
    for heading in re.findall(r"^#{1,6} +(.+?)(?: +#+)?$", text, re.MULTILINE):
        shown = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        used = sum(1 for anchor in anchors if re.fullmatch(rf"{re.escape(slug)}(-\d+)?", anchor))
        anchors.append(f"{slug}-{used}" if used else slug)
    return anchors


def exists(path):
    """Whether the file or folder is there under exactly this name, on any file system."""
    return path.exists() and path.name in {entry.name for entry in path.parent.iterdir()}


def wrong_with(target, page, root=ROOT):
    """What is wrong with a link's target; None if nothing is."""
    try:
        parts = urlsplit(target)
    except ValueError as error:
        return str(error)
    if parts.scheme or parts.netloc:
        whole = parts.scheme in ("http", "https") and re.fullmatch(r"[\w.-]+\.\w+", parts.netloc)
        return None if whole or parts.scheme == "mailto" else "no address on the web"
    if target.startswith("/") or not target:
        return "neither a relative path nor an address"
    file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if root not in (file, *file.parents):
        return "leads out of the project"
    if not exists(file):
        return "no such file"
    if parts.fragment:
        if file.suffix not in (".md", ".ipynb"):
            return "an anchor in a file that has no headings"
        if unquote(parts.fragment) not in anchors_of(text_of(file)):
            return "no such heading"
    return None


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets, undefined = links_of(text_of(page))
    wrong = {target: why for target in targets if (why := wrong_with(target, page))}
    assert wrong == {}
    assert undefined == []


def test_there_are_links_to_check():
    found = [target for page in (*PAGES, *NOTEBOOKS) for target in links_of(text_of(page))[0]]
    assert len(PAGES) > 10
    assert sum("#" in target for target in found) > 40  # the index of the log has one an entry
    assert sum(target.endswith(".png") for target in found) >= 3


def test_functions_and_tests_named_beside_the_equations_are_there():
    """In docs/paper.md each name in code that is a link is defined in the file it leads to."""
    page = ROOT / "docs" / "paper.md"
    named = re.findall(r"\[`(\w+)`\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    assert len(named) > 40
    missing = []
    for name, target in named:
        source = (page.parent / target).resolve().read_text(encoding="utf-8")
        if not re.search(rf"^\s*(?:def|class) {name}\b|^{name}\b.*=", source, re.MULTILINE):
            missing.append(f"{target} defines no {name}")
    assert missing == []


@pytest.mark.parametrize(
    ("link", "why"),
    [
        ("other.md", None),
        ("other.md#a-heading-of-q", None),
        ("other.md#a-heading-of-q-1", None),
        ("#here", None),
        ("../README.md", None),
        ("https://arxiv.org/abs/2411.05193", None),
        ("Other.md", "no such file"),
        ("missing.md", "no such file"),
        ("other.md#elsewhere", "no such heading"),
        ("other.md#inside-code", "no such heading"),
        ("picture.png#a", "an anchor in a file that has no headings"),
        ("../../README.md", "leads out of the project"),
        ("/docs/other.md", "neither a relative path nor an address"),
        ("http:/missing.slash", "no address on the web"),
        ("https://[half", "Invalid IPv6 URL"),
    ],
)
def test_wrong_links_are_found(tmp_path, link, why):
    docs = tmp_path / "docs"
    docs.mkdir()
    (tmp_path / "README.md").write_text("# A\n")
    (docs / "picture.png").write_bytes(b"")
    (docs / "other.md").write_text(
        "# A heading, of `q`!\n```\n# Inside code\n```\n## A heading of [q](x.md)\n"
    )
    page = docs / "page.md"
    page.write_text(f"# Here\n[![b](picture.png)]({link})\n")
    targets, undefined = links_of(text_of(page))
    assert (targets, undefined) == (["picture.png", link], [])
    assert wrong_with(link, page, tmp_path) == why


def test_code_and_formulas_are_no_links_and_references_need_a_definition():
    text = '`[a](b)` $[0](1)$\n```\n[c](d)\n```\n[e][f] [g][h]\n\n[f]: x.md\n<img src="y.png">\n'
    assert links_of(text) == (["x.md", "y.png"], ["h"])
