"""A choice between two things: its truth is the table of Twenty Questions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsft_lite.tasks.twenty_questions.rules import read_objects, read_topics
from qsft_lite.tasks.twenty_questions.which_one import (
    OFFERED,
    choices,
    episodes,
    seen_and_unseen,
)

ATTRIBUTES = {topic.phrasings[0]: topic.name for topic in read_topics()}
THINGS = {thing.name: thing for thing in read_objects()}


def test_objects_are_seen_or_unseen():
    seen, unseen = seen_and_unseen()
    assert not {*seen} & {*unseen} and {*seen} | {*unseen} == {*THINGS.values()}
    assert len(unseen) == len(THINGS) // 3


@given(st.integers(0, 2**31), st.sampled_from([0, 1]))
@settings(max_examples=20, deadline=None)
def test_one_of_the_offered_has_the_attribute_and_only_it_pays(seed, part):
    things = seen_and_unseen()[part]
    asked = choices(15, seed, things)
    assert asked == choices(15, seed, things)
    for one in asked:
        question = one.prompt.split(": ")[1].removesuffix(" The")
        names = [action.strip() for action in one.actions]
        assert all(THINGS[name] in things for name in names)
        assert len({name.split()[0] for name in names}) == OFFERED
        fits = [ATTRIBUTES[question] in THINGS[name].attributes for name in names]
        assert fits == [place == one.right for place in range(OFFERED)]
        assert one.prompt.startswith(" or ".join(names))
    played = episodes(asked, seed)
    for one, texts, rewards in zip(asked, played["text"], played["reward"], strict=True):
        assert texts[0] == one.prompt and texts[1] in one.actions
        assert rewards == [0.0, float(one.actions.index(texts[1]) == one.right)]


def test_the_data_s_player_knows_nothing():
    seen, _ = seen_and_unseen()
    asked = choices(2_000, 0, seen)
    played = episodes(asked, 1)
    mean = np.mean([sum(reward) for reward in played["reward"]])
    assert abs(mean - 1 / OFFERED) < 0.05  # four standard errors
    assert abs(np.mean([one.right == 0 for one in asked]) - 0.5) < 0.05


def test_objects_that_nothing_tells_apart_are_refused():
    with pytest.raises(ValueError, match="no attribute tells one of 1 objects"):
        choices(1, 0, read_objects()[:1])
