"""Build the website: README, notebooks and docs, as they are committed, into build/book/html.

    make book

The pages are copied into build/book/source, laid out as in the repository, and Sphinx turns them
into HTML with the settings of docs/conf.py. No notebook is run. A link or an image that leads
nowhere fails the build, twice over: Sphinx's warnings count as errors, and afterwards each link of
the finished pages is looked up among the finished files. Addresses on the web are not visited.
"""

from __future__ import annotations

import json
import posixpath
import re
import shutil
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.cmd.build import build_main

ROOT = Path(__file__).resolve().parents[1]
# The order in which pages of docs/ are read; a page not named here comes after them.
READING_ORDER = (
    *("install", "notation", "paper", "tasks", "leaderboard", "architecture"),
    *("full_scale", "troubleshooting", "log"),
)


def reading_order(page: Path) -> tuple[int, str]:
    """Return what to sort pages of docs/ by."""
    known = page.stem in READING_ORDER
    return READING_ORDER.index(page.stem) if known else len(READING_ORDER), page.stem


def contents(caption: str, pages: Sequence[Path]) -> str:
    """Return one part of the table of contents; empty if it has no pages."""
    if not pages:
        return ""
    names = "\n".join(page.with_suffix("").as_posix() for page in pages)
    return f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{names}\n```\n"


def home_page(root: Path, pages: Sequence[Path]) -> str:
    """Return the README, with the table of contents of the site at its end."""
    chapters = sorted(page for page in pages if page.suffix == ".ipynb")
    docs = sorted((p for p in pages if p.parent == Path("docs")), key=reading_order)
    results = sorted(page for page in pages if page.parent == Path("docs/results"))
    return (root / "README.md").read_text(encoding="utf-8") + "".join(
        contents(caption, group)
        for caption, group in (("Chapters", chapters), ("Guides", docs), ("Results", results))
    )


def for_the_site(notebook: str) -> str:
    """Return a notebook's text with what the site needs: folded cells, and texts for pictures.

    Cells that JupyterLab shows folded are so on the site, and the alternative text of an output's
    picture stands where myst-nb looks for it.
    """
    content = json.loads(notebook)
    for cell in content["cells"]:
        if cell["metadata"].get("jupyter", {}).get("source_hidden"):
            cell["metadata"].setdefault("tags", []).append("hide-input")
        for output in cell.get("outputs", []):
            if alt := output.get("metadata", {}).get("image/png", {}).get("alt"):
                cell["metadata"]["mystnb"] = {"image": {"alt": alt}}
    return json.dumps(content)


def stage(root: Path, source: Path) -> None:
    """Copy all pages and pictures of the site from root into the folder source."""
    found = [*root.glob("notebooks/*.ipynb"), *root.glob("docs/**/*.md")]
    pages = [page.relative_to(root) for page in found]
    source.mkdir(parents=True)
    for page in pages:
        text = (root / page).read_text(encoding="utf-8")
        (source / page).parent.mkdir(parents=True, exist_ok=True)
        (source / page).write_text(for_the_site(text) if page.suffix == ".ipynb" else text, "utf-8")
    (source / "index.md").write_text(home_page(root, pages), encoding="utf-8")
    if (root / "figures").exists():
        shutil.copytree(root / "figures", source / "figures")


def link_to_repository(app: Sphinx, document: nodes.document) -> None:
    """Lead links to files that are no pages, such as code, to the repository on GitHub.

    Links to the README lead to the home page. A file that does not exist is left to Sphinx, which
    warns, and so the build fails.
    """
    address = app.config.html_theme_options["repository_url"]
    root = Path(app.config.repository_root)
    for link in list(document.findall(pending_xref)):
        if link["reftype"] != "myst" or link.get("refdomain"):
            continue  # to a page, which Sphinx checks
        target, _, part = link["reftarget"].partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(link["refdoc"]), target))
        if not target or path.startswith("..") or not (root / path).exists():
            continue
        if path == "README.md":
            link["refdomain"], link["reftarget"], link["reftargetid"] = "doc", "index", part or None
            continue
        kind = "tree" if (root / path).is_dir() else "blob"
        uri = f"{address}/{kind}/main/{path}" + (f"#{part}" if part else "")
        link.replace_self(nodes.reference("", "", *link.children, refuri=uri, internal=False))


def words_for_remote_images(app: Sphinx, document: nodes.document) -> None:
    """Replace pictures that are on the web, such as badges, by their words: no page needs one."""
    for image in list(document.findall(nodes.image)):
        if urlsplit(image["uri"]).netloc:
            image.replace_self(nodes.inline("", image.get("alt") or image["uri"]))


def setup(app: Sphinx) -> dict[str, bool]:
    """Be a Sphinx extension, which docs/conf.py names."""
    app.add_config_value("repository_root", str(ROOT), "env", frozenset({str}))
    app.connect("doctree-read", link_to_repository)
    app.connect("doctree-read", words_for_remote_images)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class Page(HTMLParser):
    """What one HTML file links to, what it loads from the web, and the names of its places."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.places = {"", "top"}  # the page itself
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note one tag's id, and where it leads."""
        values = {name: value for name, value in attrs if value}
        self.places.update(values[name] for name in ("id", "name") if name in values)
        addresses = [values[name] for name in ("href", "src") if name in values]
        self.links += [address for address in addresses if not urlsplit(address).scheme]
        if tag in ("script", "img") or (tag == "link" and "stylesheet" in values.get("rel", "")):
            self.loaded += [a for a in addresses if re.match(r"(https?:)?//", a)]


def problems(html: Path) -> Iterator[str]:
    """Say of each link of a finished site that it leads nowhere, and what comes from the web."""
    files = sorted(f for f in html.rglob("*.html") if f.parent.name != "_static")  # templates
    pages = {file: Page(file.read_text(encoding="utf-8")) for file in files}
    for file, page in pages.items():
        name = file.relative_to(html).as_posix()
        for address in page.loaded:
            yield f"{name} loads {address}: it would not work without a network"
        for link in page.links:
            parts = urlsplit(link)
            if parts.netloc:  # //host/...
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            if not target.exists():
                yield f"{name} links to {link}: there is no such file"
            elif target in pages and unquote(parts.fragment) not in pages[target].places:
                yield f"{name} links to {link}: that page has no such place"


def build(root: Path, folder: Path, settings: Path = ROOT / "docs") -> int:
    """Build the site of root into folder/html; return 0, or 1 if anything is broken.

    What is in the folder is removed first: Sphinx warns of a page only when it reads it anew.
    """
    source, html = folder / "source", folder / "html"
    shutil.rmtree(folder, ignore_errors=True)
    stage(root, source)
    options = ["-b", "html", "-c", str(settings), "-d", str(folder / "doctrees"), "-q", "-W"]
    options += ["--keep-going", "-D", f"repository_root={root}"]
    if build_main([*options, str(source), str(html)]):
        return 1
    found = list(problems(html.resolve()))
    print("\n".join([*found, f"The website: {html / 'index.html'}"]))
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(build(ROOT, ROOT / "build/book"))
