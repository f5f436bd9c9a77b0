"""The shop's search engine: BM25, as the original's, whose engine is Lucene (Pyserini).

The formula and its constants are Lucene's there. Its words are not quite the same: here a word
loses its plural ending by three rules, there all endings by Porter's stemmer, and Lucene keeps a
document's length in one byte. So the order of hits may differ where scores are close.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence

# bm25s tries JAX out, where it is installed, and JAX would take three quarters of a GPU's memory.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
import bm25s  # noqa: E402
import numpy as np  # noqa: E402

HITS = 50  # the most that a search returns
WORD = re.compile(r"\w+(?:[.'’]\w+)*")
STOP_WORDS = frozenset(
    "a an and are as at be but by for if in into is it no not of on or such that the their then "
    "there these they this to was will with".split()
)


class Search:
    """An index over documents, which are numbered from 0."""

    def __init__(self, documents: Iterable[str]) -> None:
        words = [document_words(document) for document in documents]
        self.bm25 = bm25s.BM25(method="lucene", k1=0.9, b=0.4)
        # An index of no words at all cannot be built: one document more, which no query finds.
        self.bm25.index([*words, ["\n"]], show_progress=False)

    def hits(self, query: str) -> list[int]:
        """The best documents of a query, at most HITS, the best first; of equals the first."""
        words = [word for word in document_words(query) if word in self.bm25.vocab_dict]
        if not words:
            return []
        scores = self.bm25.get_scores(words)[:-1]
        found = np.flatnonzero(scores > 0)
        if len(found) > HITS:
            least = np.partition(scores[found], -HITS)[-HITS]
            found = found[scores[found] >= least]
        return found[np.argsort(-scores[found], kind="stable")][:HITS].tolist()


def document_words(text: str) -> list[str]:
    """The words of a text that are searched for, without plural endings."""
    words = (word.removesuffix("'s").removesuffix("’s") for word in WORD.findall(text.lower()))
    return [singular(word) for word in words if word and word not in STOP_WORDS]


def singular(word: str) -> str:
    """A word of three letters or more without its plural ending, by the rules of Harman (1991)."""
    if len(word) < 3:
        return word
    if word.endswith("ies") and not word.endswith(("eies", "aies")):
        return word[:-3] + "y"
    if word.endswith("es") and not word.endswith(("aes", "ees", "oes")):
        return word[:-1]
    if word.endswith("s") and not word.endswith(("us", "ss")):
        return word[:-1]
    return word


def product_document(product: dict) -> str:
    """What is searched of a product, as in the original: not all it says, one feature of it."""
    options = [f"{name}: {', '.join(values)}" for name, values in product["options"].items()]
    features = product["BulletPoints"][:1]
    parts = [product["Title"], product["Description"], *features, ", and ".join(options)]
    return " ".join(parts).lower()


def product_documents(products: Sequence[dict]) -> Iterable[str]:
    """Of each product what is searched."""
    return map(product_document, products)
