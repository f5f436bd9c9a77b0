"""Pictures put into words: descriptions are what states say, and policies by words act on them."""

import numpy as np
import pytest

from qsft_lite.data.images import load_image
from qsft_lite.evaluate import evaluate
from qsft_lite.models import word_tokenizer
from qsft_lite.study import changed
from qsft_lite.tasks.manipulation import data
from qsft_lite.tasks.manipulation.env import Manipulation
from qsft_lite.tasks.manipulation.picture import render
from qsft_lite.tasks.manipulation.players import StatePlayer
from qsft_lite.tasks.manipulation.reader import (
    Reader,
    description_texts,
    generate_descriptions,
    read_shares,
    shown_tables,
)
from qsft_lite.tasks.manipulation.starts import HORIZONS
from qsft_lite.tasks.manipulation.study import PROFILES, ManipulationTask
from qsft_lite.tasks.manipulation.table import FRONT, NOTHING
from qsft_lite.tasks.manipulation.text import (
    described_line,
    image_texts,
    scene_texts,
    state_texts,
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(data.platformdirs, "user_cache_dir", lambda name: str(tmp_path / name))


@pytest.mark.parametrize("task", HORIZONS)
def test_a_line_and_its_description_are_the_state_in_words(task):
    tables = shown_tables(task, 300, np.random.default_rng(3))
    lines, scenes = image_texts(task, tables), scene_texts(tables)
    for line, scene, state in zip(lines, scenes, state_texts(task, tables), strict=True):
        assert described_line(line, scene + "\n") == state


@pytest.mark.parametrize("task", HORIZONS)
def test_the_tables_are_of_all_kinds_and_whole(task):
    tables = shown_tables(task, 600, np.random.default_rng(3))
    assert (np.bincount(tables.named) > 100).all()
    assert (np.diff(tables.colors, axis=1) > 0).all()
    free = tables.holding == NOTHING
    assert 0.4 < free.mean() < 0.95 and tables.position[free, 1].max() <= FRONT + 0.2
    holds = np.flatnonzero((tables.holding >= 0) & (tables.holding < 3))
    assert len(holds) > 20
    held = tables.blocks[holds, tables.holding[holds]]
    np.testing.assert_allclose(held, tables.position[holds])


def test_a_picture_shows_the_table_of_its_description():
    games = generate_descriptions(7, 5, size=32)
    rng = np.random.default_rng(np.random.SeedSequence(5, spawn_key=(0,)))
    tables = shown_tables("tray", 7, rng)
    assert [text[0] for text in games["text"]] == image_texts("tray", tables)
    for [reference], picture in zip(games["images"], render(tables, 32), strict=True):
        np.testing.assert_array_equal(load_image(reference), picture)
    assert games["done"][:] == [True] * 7 and np.sum(games["reward"][:]) == 0
    assert generate_descriptions(7, 5, size=32)["text"][:] == games["text"][:]
    assert generate_descriptions(7, 6, size=32)["text"][:] != games["text"][:]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"task": "trays"}, "did you mean 'tray'"), ({"size": 3}, "size must be at least 16")],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        generate_descriptions(2, 0, **options)


@pytest.mark.parametrize("task", HORIZONS)
def test_its_tokenizer_reads_every_description(task):
    tokenizer = word_tokenizer(description_texts(task), images=True)
    for line, scene in generate_descriptions(50, 1, task=task)["text"]:
        assert len(tokenizer(scene).input_ids) == len(scene.split())
        assert tokenizer.decode(tokenizer(line + scene).input_ids) == line + scene


def test_words_that_no_scene_has_are_left_out():
    line = "X12 Y07 Z19 A+1 B-2 C+0 open put the red block on the tray <image>\n"
    told = described_line(line, "red u-5 X03 v+3 <image> tray w-9 the lower00 ")
    assert told == (
        "X12 Y07 Z19 A+1 B-2 C+0 open red u-5 v+3 w-9 lower00 put the red block on the tray\n"
    )


class Known:
    """A describer that knows each picture's table."""

    def __init__(self, scenes):
        self.scenes = scenes

    def reset(self, seed):
        pass

    def act(self, histories, images):
        assert all(len(own) == 1 for own in images)
        return [self.scenes[own[0].tobytes()] for own in images]


def test_with_true_descriptions_a_script_by_words_plays_as_it_does_by_words():
    """A script that reads states, through pictures: the same games."""
    words, scenes = Manipulation(format="state"), {}

    class Shown(Manipulation):
        @staticmethod
        def step_together(envs, actions):
            found = Manipulation.step_together(envs, actions)
            for env, answer in zip(envs, found, strict=True):
                scenes[answer[-1]["image"].tobytes()] = scene_texts(env.table.tables)[0]
            return found

        def reset(self, **options):
            text, info = super().reset(**options)
            scenes[info["image"].tobytes()] = scene_texts(self.table.tables)[0]
            return text, info

        def clone(self):
            return Shown(bins=self.bins)

    bins = {"bins": words.bins}
    script = StatePlayer("tray", **bins)
    told = evaluate(script, words, 10, 3)
    shown = evaluate(Reader(Known(scenes), StatePlayer("tray", **bins)), Shown(**bins), 10, 3)
    assert shown.returns.tolist() == told.returns.tolist() and told.mean > 0.5
    assert shown.lengths.tolist() == told.lengths.tolist()


def test_how_much_is_read():
    tables = shown_tables("drawer", 60, np.random.default_rng(3))
    truth = scene_texts(tables)
    shown = [picture.tobytes() for picture in render(tables)]
    kinds = {"u", "v", "w", "hidden", "lower", "upper"}
    assert read_shares(Known(dict(zip(shown, truth, strict=True))), "drawer", 60, 3) == (
        dict.fromkeys(kinds, 1.0)
    )
    # A color is left out, and no scene has a word of the upper drawer.
    odd = [text.replace("red ", "", 1).replace("upper", "up") for text in truth]
    some = read_shares(Known(dict(zip(shown, odd, strict=True))), "drawer", 60, 3)
    assert some["upper"] == 0.0 and 0.2 < some["u"] < 0.9

    def moved(text, steps):
        words = [
            f"u{int(word[1:]) + steps:+d}" if word[0] == "u" and word[1] in "+-" else word
            for word in text.split()
        ]
        return " ".join(words)

    for steps, share in ((1, 1.0), (2, 0.0)):
        off = {key: moved(text, steps) for key, text in zip(shown, truth, strict=True)}
        assert read_shares(Known(off), "drawer", 60, 3)["u"] == share
    nothing = read_shares(Known(dict.fromkeys(shown, "u- lower")), "drawer", 60, 3)
    assert nothing["u"] == nothing["hidden"] == 0.0


def test_a_study_plays_from_pictures_and_keeps_its_reader():
    settings = changed(PROFILES["smoke"], {"format": "state", "reader": 30})
    task = ManipulationTask(settings, 0)
    cloned = task.clone()
    policy = task.policy(cloned, temperature=1.0)
    chosen, result = (task.play(policy, test) for test in (False, True))
    assert "<image>" not in chosen.transcripts[0]["text"][0]
    assert result.transcripts[0]["text"][0].endswith("<image>\n")
    assert len(result.transcripts) == settings.test_games
    assert "<image>" not in task.games["text"][0][0]
    again = ManipulationTask(settings, 0).describer.models[0].state_dict()
    for name, weight in task.describer.models[0].state_dict().items():
        assert (weight == again[name]).all()


def test_a_reader_is_for_words():
    settings = changed(PROFILES["smoke"], {"format": "image", "reader": 30})
    with pytest.raises(ValueError, match="reader needs format=state"):
        ManipulationTask(settings, 0)
