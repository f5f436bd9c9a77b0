"""Reading a question: its words without what does not change its meaning."""

from __future__ import annotations

import re

# Words that may be there or not, articles among them.
FILLERS = frozenset(
    "a an the some any usually mostly mainly typically normally generally often primarily commonly "
    "really actually probably maybe perhaps possibly ok okay well so hmm um please "
    "then also just now".split()
)
# Pairs of a phrase and what it stands for, replaced in this order.
SAME = tuple(
    (re.compile(rf"\b{phrase}\b"), word)
    for phrase, word in (
        (r"something (?:that|which)", "something"),
        (r"(?:the|this|that|your) (?:secret )?(?:object|thing|item|word|answer)", "it"),
        (r"(?:this|that|these|those|they|them)", "it"),
        (r"it(?: that| which)? you are thinking (?:of|about)", "it"),
        (
            r"(?:people|humans|we|someone|somebody|anyone|one person|person|human being|human)",
            "you",
        ),
        (r"are it", "is it"),
        (r"do it", "does it"),
        (r"(?:made out of|made up of|made from|composed of)", "made of"),
    )
)
GUESS = re.compile(
    r"(?:(?:i (?:think|guess|believe|say)|my (?:final |last )?guess is|final guess) )?"
    r"(?:(?:is it|it is|its|could it be|can it be|might it be|would it be|must it be|it must be"
    r"|it could be|are you thinking of|do you mean|is it called|it) )?"
    r"(.+)"
)
KIND = re.compile(r"\b(?:kind|type|sort|form) of ")
IRREGULAR = {"mouse": "mice", "goose": "geese", "man": "men", "ox": "oxen", "foot": "feet"}


def normalize(text: str) -> str:
    """The words of a question in lower case, in one spelling of what is said in many ways."""
    text = text.lower().replace("’", "'")
    text = re.sub(r"\bcan't\b", "can", text)
    text = re.sub(r"n't\b", "", text)  # "isn't it" asks the same as "is it"
    text = re.sub(r"'s\b", " is", text).replace("'re ", " are ")
    text = " ".join(re.findall(r"[a-z0-9]+", text))
    for pattern, word in SAME:
        text = pattern.sub(word, text)
    return " ".join(word for word in text.split() if word not in FILLERS)


def without_kind(words: str) -> str:
    """A normalized question without "kind of": "is it kind of animal" -> "is it animal"."""
    return KIND.sub("", words)


def guessed_name(words: str) -> str:
    """What a normalized text says the object is, if anything: "is it cup" -> "cup"."""
    match = GUESS.fullmatch(words)
    return match[1] if match else ""


def plural(name: str) -> str:
    """The plural of a noun, by the rules and the few exceptions that everyday objects need."""
    start, _, noun = name.rpartition(" ")
    if " of " in name:  # "pair of shoes"
        noun, _, rest = name.partition(" of ")
        return f"{plural(noun)} of {rest}"
    if noun in IRREGULAR:
        noun = IRREGULAR[noun]
    elif re.search(r"(s|x|z|ch|sh)$", noun):
        noun += "es"
    elif re.search(r"[^aeiou]y$", noun):
        noun = noun[:-1] + "ies"
    elif re.search(r"(kni|wol|shel|scar|loa|lea)fe?$", noun):
        noun = re.sub(r"fe?$", "ves", noun)
    elif noun in ("tomato", "potato", "mango"):
        noun += "es"
    else:
        noun += "s"
    return f"{start} {noun}".strip()
