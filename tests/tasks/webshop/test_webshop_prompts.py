"""WebShop's example is a visit that can be played, with thoughts that fit what is shown."""

import json
import re

import pytest
from places import SHARED_DATA

from qsft_lite.tasks.webshop.env import WebShop
from qsft_lite.tasks.webshop.players import CarefulPlayer
from qsft_lite.tasks.webshop.prompts import GOAL, example, thought_before, webshop_prompt

REACT = SHARED_DATA / "react" / "webshop_prompts.json"
THOUGHT = r"\nAction: think\[.*\]\nObservation: OK\.\n"


def test_the_example_is_a_visit_that_buys_what_is_asked():
    env = WebShop()
    assert GOAL in env.catalog.split("train")
    first, _ = env.reset(options={"goal": GOAL})
    head, *turns = example(GOAL, thinks=False).split("\nAction: ")
    assert head == first
    for turn in turns[:-1]:
        action, answer = turn.split("\n", 1)
        text, _, done, _, info = env.step(action)
        assert answer == f"Observation: {text}" and info["valid"] and not done
    assert turns[-1] == "click[buy now]\n"
    _, reward, done, _, _ = env.step("click[buy now]")
    assert (reward, done) == (1, True)


def test_thoughts_stand_between_the_same_actions():
    thinking, acting = webshop_prompt(), webshop_prompt(thinks=False)
    assert thinking == webshop_prompt() and thinking.endswith("\n\n")
    assert re.sub(THOUGHT, "", thinking) == acting
    thoughts = re.findall(THOUGHT, thinking)
    assert len(thoughts) == len(set(thoughts)) == acting.count("\nAction: ")


@pytest.mark.parametrize("goal", range(1_500, 1_530))
def test_a_thought_fits_the_action_after_it(goal):
    """Of other visits, too: what a thought names is on the page or in the action."""
    env = WebShop()
    player = CarefulPlayer(env.catalog, 0)
    page, _ = env.reset(options={"goal": goal})
    history, done, truncated = page, False, False
    while not (done or truncated):
        visit = player.visit(history)
        action = player.choose(visit)
        thought = thought_before(player, visit, action)
        assert "\n" not in thought
        if match := re.search(r"(\w+) costs (.+), and its title", thought):
            assert action == f"click[{match[1].lower()}]"
            assert f"[SEP] {match[1]} [SEP] " in page and f" [SEP] {match[2]}" in page
        if match := re.search(r"I choose: (.*)\.$", thought):
            assert action == f"click[{match[1].split(', ')[0]}]"
        if "I buy it" in thought:
            assert action == "click[buy now]"
        page, _, done, truncated, _ = env.step(action)
        history += f"{action}\n{page}"


@pytest.mark.skipif(not REACT.exists(), reason="needs ../shared/data/react")
def test_the_prompts_of_react_are_read():
    found = json.loads(REACT.read_text(encoding="utf-8"))
    assert webshop_prompt(REACT) == found["react"] + "\n"
    assert webshop_prompt(str(REACT), thinks=False) == found["act"] + "\n"


def test_a_file_that_is_not_reacts_is_named(tmp_path):
    path = tmp_path / "prompts.json"
    path.write_text('{"act": "x"}', encoding="utf-8")
    assert webshop_prompt(path, thinks=False) == "x\n"
    with pytest.raises(ValueError, match="prompts.json has no text 'react'; its keys are: act"):
        webshop_prompt(path)
