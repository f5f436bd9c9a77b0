"""ALFWorld's examples are games that can be played, with thoughts that say what comes next."""

import json
import re

import pytest
from places import SHARED_DATA

from qsft_lite import envs
from qsft_lite.files import read_json_texts
from qsft_lite.tasks.alfworld.env import ALFWorld
from qsft_lite.tasks.alfworld.pddl import TASK_TYPES
from qsft_lite.tasks.alfworld.prompts import GAMES, alfworld_prompts, example, in_lines, prompt_for

REACT = SHARED_DATA / "react" / "alfworld_3prompts.json"
genuine = pytest.mark.skipif(not REACT.exists(), reason="needs ../shared/data/react")


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_an_example_is_a_game_that_its_actions_win(task_type):
    env = ALFWorld()
    first, info = env.reset(options={"game": GAMES[task_type]})
    assert info["task_type"] == task_type
    head, *turns = example(GAMES[task_type], thinks=False).split("> ")
    assert head == in_lines(first)
    for turn in turns:
        command, answer = turn.split("\n", 1)
        text, _, done, _, info = env.step(command)
        assert text == answer
    assert done and info["success"]


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_thoughts_stand_between_the_same_actions(task_type):
    thinking = alfworld_prompts()[task_type]
    assert thinking == alfworld_prompts()[task_type]
    thoughts = re.findall(r"> think: .*\nOK\.\n", thinking)
    acting = alfworld_prompts(thinks=False)[task_type]
    assert re.sub(r"> think: .*\nOK\.\n", "", thinking) == acting
    assert 3 <= len(thoughts) <= 6 and len(set(thoughts)) == len(thoughts)
    assert f"\n{thoughts[0]}" in thinking and thinking.index("> think") == thinking.index("> ")
    # A thought of a thing to take names what is taken next.
    seen = re.findall(
        r"Now I see (\w+ \d+) in or on .*\nOK\.\n(?:> go .*\n.*\n)?> take (.*)", thinking
    )
    assert seen and all(taken.startswith(f"{thing} from") for thing, taken in seen)
    treated = re.findall(r"Next I (clean|heat|cool) it", thinking)
    assert treated == (
        [task_type.split("_")[1]] if f"> {task_type.split('_')[1]} " in thinking else []
    )


def test_the_task_chooses_its_examples():
    prompts = {task_type: f"[{task_type}]\n" for task_type in TASK_TYPES}
    env, begin, met = envs.make("alfworld", split="unseen"), prompt_for(prompts), set()
    for number in range(60):
        first, info = env.reset(options={"game": f"unseen/{number}"})
        text = begin(first)
        assert re.findall(r"\[(.*)\]", text) == [info["task_type"]]
        assert text.endswith(f".\nYour task is to: {info['task']}.\n") and "Welcome" not in text
        met.add(info["task_type"])
    assert met == set(TASK_TYPES)


@pytest.mark.parametrize("text", ["put mug shelf : shelf 1\n", "", "Hello.\n"])
def test_what_is_no_first_text_has_no_examples(text):
    with pytest.raises(ValueError, match="is no first text: prompts need format='text'"):
        prompt_for(alfworld_prompts())(text)


@genuine
@pytest.mark.parametrize("thinks", [True, False])
def test_the_prompts_of_react_are_read(thinks):
    found = json.loads(REACT.read_text(encoding="utf-8"))
    style = "react" if thinks else "act"
    prompts = alfworld_prompts(REACT, thinks=thinks)
    assert set(prompts) == set(TASK_TYPES)
    heat = found[f"{style}_heat_1"] + found[f"{style}_heat_0"]
    assert prompts["pick_heat_then_place_in_recep"] == heat
    two = alfworld_prompts(str(REACT), thinks=thinks, numbers=(2,))["pick_two_obj_and_place"]
    assert two == found[f"{style}_puttwo_2"]
    asked = {
        "put": "put ",
        "clean": "clean",
        "heat": "hot|heat",
        "cool": "cool",
        "examine": "look|examine",
    }
    for kind, words in zip(("put", "examine", "clean", "heat", "cool"), prompts, strict=False):
        tasks = re.findall(r"Your task is to: (.*)", prompts[words])
        assert len(tasks) == 2 and all(re.search(asked[kind], task) for task in tasks)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"prompts.json cannot be read as JSON: .*No such file"),
        (b"{", r"prompts.json cannot be read as JSON"),
        (b"[]", r"prompts.json must hold one JSON object, not a list"),
        (b"{}", r"prompts.json has no text 'react_put_1'; its keys are: $"),
        (b'{"react_put_1": 3, "x": ""}', r"no text 'react_put_1'; its keys are: react_put_1, x"),
        (b"\xff\xfe{\x00}\x00", r"prompts.json: this is UTF-16"),
    ],
)
def test_a_file_that_is_not_reacts_is_named(tmp_path, content, message):
    path = tmp_path / "prompts.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        alfworld_prompts(path)


def test_texts_of_a_file_are_given_by_key(tmp_path):
    path = tmp_path / "texts.json"
    path.write_bytes('\ufeff{"a": "é", "b": 1, "c": "x"}'.encode())
    assert read_json_texts(path, ["c", "a"]) == {"c": "x", "a": "é"}
