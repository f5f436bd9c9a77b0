"""Settings of the website: what Sphinx reads when tools/book.py calls it (make book)."""

from importlib.util import find_spec
from pathlib import Path

project = "qsft_lite"
author = "qsft_lite contributors"
copyright = "qsft_lite contributors, MIT license"
root_doc = "index"
extensions = ["myst_nb", "sphinx.ext.mathjax", "tools.book"]

# The committed outputs are shown as they are. Nothing is run, so the build needs no torch.
nb_execution_mode = "off"
# A widget without a kernel is an empty box; the picture that each notebook prints beside it stays.
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]

myst_enable_extensions = ["amsmath", "dollarmath", "html_image"]
myst_heading_anchors = 4  # links such as page.md#a-heading, by GitHub's names

html_theme = "sphinx_book_theme"
html_title = "qsft_lite"
html_theme_options = {
    "repository_url": "https://github.com/qsft-lite/qsft_lite",
    "use_repository_button": True,
    "show_toc_level": 2,
    "navbar_persistent": [],
}
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system is
html_sourcelink_suffix = ""  # the download button gives the notebook under its own name

# MathJax in one file out of a Python package: the formulas need no network.
_mathjax = find_spec("sphinx-mathjax-offline")
assert _mathjax is not None and _mathjax.origin is not None, "pip install sphinx-mathjax-offline"
_script = Path(_mathjax.origin).parent / "static/mathjax/tex-svg-full.js"
mathjax_path = _script.name
html_static_path = [str(_script), str(Path(__file__).with_name("site.css"))]
html_css_files = ["site.css"]
