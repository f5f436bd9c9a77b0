"""How a game is written; and reading a question: its words without what changes no meaning."""

from __future__ import annotations

import re

START = "Questions:\n"
YES, NO = "Yes.\n", "No.\n"

# Words that may be there or not, articles among them.
FILLERS = frozenset(
    "a an the some any usually mostly mainly typically normally generally often primarily commonly "
    "really actually probably maybe perhaps possibly ok okay well so hmm um please "
    "then also just now".split()
)
SUBJECT = r"(?:it|they|you|we|i|people|one|the|this|that|these|those|there)\b"
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
ASKED = re.compile(r"\b(?:can|could|would|do) (?:you|i)\b")
# Statements and tags: "it is an animal, isn't it", "is it a metal thing".
SAME_WHOLE = (
    (re.compile(r"it is (.+?)(?: is it| right| correct)?"), r"is it \1"),
    (re.compile(r"(is it .+) (?:object|thing|item)"), r"\1"),
)
# Guesses that are adjectives or materials too: without an article, "is it orange" is none of them.
ALSO_ADJECTIVES = frozenset({"orange", "iron", "rubber", "mobile", "auto"})
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
    text = re.sub(r"\bcan't\b", "cann't", text)
    # "Isn't it a dog?" asks the same as "Is it a dog?", but "It isn't a dog." says the opposite.
    text = re.sub(rf"n't(?= {SUBJECT})", "", text)
    text = re.sub(r"n't\b", " not", text)
    text = re.sub(r"'s\b", " is", text).replace("'re ", " are ")
    text = " ".join(re.findall(r"[a-z0-9]+", text))
    for pattern, word in SAME:
        text = pattern.sub(word, text)
    text = " ".join(word for word in text.split() if word not in FILLERS)
    text = ASKED.sub("do you", text)
    for pattern, question in SAME_WHOLE:
        if match := pattern.fullmatch(text):
            text = match.expand(question)
    return text


def without_kind(words: str) -> str:
    """A normalized question without "kind of": "is it kind of animal" -> "is it animal"."""
    return KIND.sub("", words)


def guessed_name(text: str) -> str:
    """What a text says the object is, if anything, as `normalize` has it: "Is it a cup?" -> "cup".

    A word that is an adjective too needs an article, unless it stands alone: "Is it an orange?".
    """
    words = normalize(text)
    match = GUESS.fullmatch(words)
    name = match[1] if match else ""
    article = rf"\b(?:an?|the|some|your|this|that) {name}\b"
    if name in ALSO_ADJECTIVES and name != words and not re.search(article, text.lower()):
        return ""
    return name


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
