"""Settings: their profiles, and changes of them by name and from a command line."""

import dataclasses
import re
import typing

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT

from qsft_lite.models import text_config
from qsft_lite.study import TASKS, Study, changed, has_study, module_of
from qsft_lite.tasks.gridworld.study import GridworldSettings
from qsft_lite.trainer import QSFTConfig

PROFILES = ("smoke", "laptop", "record", "gpu")
STUDIED = [task for task in TASKS if has_study(task)]
EVERY = [(task, profile) for task in STUDIED for profile in PROFILES]
BASE = GridworldSettings()


def test_texts_and_values_change_alike():
    texts = ["games=7", "muon=false", "gamma=.5", "layout=SG ..", "value_games=1e3", "bf16 = True"]
    values = {"games": 7, "muon": False, "gamma": 0.5, "layout": ["SG", ".."]}
    found = changed(BASE, texts)
    assert found == changed(BASE, {**values, "value_games": 1_000, "bf16": True})
    assert (found.layout, found.muon, found.value_games) == (("SG", ".."), False, 1_000)
    assert {name for name in vars(found) if getattr(found, name) != getattr(BASE, name)} == {
        *values,
        "value_games",
        "bf16",
    }
    assert changed(BASE, []) == BASE and type(found) is GridworldSettings
    assert changed(module_of("wordle").PROFILES["smoke"], ["word_list=a=b"]).word_list == "a=b"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("layerz=3", "no setting is called 'layerz': did you mean 'layers'"),
        ("batch_row=3", "did you mean 'batch_rows'"),
        ("games", "'games' is no setting: write name=value"),
        ("games=many", "games must be of type int"),
        ("games=2.5", "games must be of type int"),
        ("games=inf", "games must be of type int"),
        ("games=", "games must be of type int"),
        ("gamma=x", "gamma must be of type float"),
        ("muon=perhaps", "muon must be of type bool"),
        ({"games": True}, "games must be of type int"),
        ({"games": None}, "games must be of type int"),
        ({"games": [1]}, "games must be of type int"),
        ({"muon": 2}, "muon must be of type bool"),
        ({"layout": 5}, "layout must be of type tuple"),
    ],
)
def test_what_is_no_setting_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        changed(BASE, [change] if isinstance(change, str) else change)


WORDS = st.text(st.characters(codec="ascii", min_codepoint=33), min_size=1, max_size=8)
VALUES = {
    int: st.integers(-(2**50), 2**50),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    str: WORDS,
    tuple[str, ...]: st.lists(WORDS, max_size=3).map(tuple),
}


@pytest.mark.parametrize("task", STUDIED)
def test_all_settings_survive_being_texts(task):
    settings = module_of(task).PROFILES["laptop"]
    types = typing.get_type_hints(type(settings))

    @given(st.fixed_dictionaries({name: VALUES[kind] for name, kind in types.items()}))
    def check(values):
        texts = [
            f"{name}={' '.join(value) if isinstance(value, tuple) else value}"
            for name, value in values.items()
        ]
        found = changed(settings, texts)
        assert found == dataclasses.replace(settings, **values)
        assert all(type(getattr(found, name)) is type(value) for name, value in values.items())

    check()


@pytest.mark.parametrize("task", STUDIED)
def test_profiles_are_of_one_class_and_smoke_is_small(task):
    profiles = module_of(task).PROFILES
    assert tuple(profiles) == PROFILES
    assert len({type(settings) for settings in profiles.values()}) == 1
    smoke = profiles["smoke"]
    assert smoke.games * smoke.behavior_epochs <= 1_000
    assert (smoke.value_games or smoke.games) * smoke.value_epochs <= 1_000
    assert smoke.seeds == 1 and smoke.validation_games + smoke.test_games <= 100
    assert all(getattr(profiles["gpu"], name) > getattr(smoke, name) for name in ("games", "width"))


class NoGames(AssertionError):
    pass


@pytest.fixture
def no_games(monkeypatch):
    """Data may not be made."""

    def refuse(*_):
        raise NoGames

    for task in STUDIED:
        monkeypatch.setattr(module_of(task).TASK, "recorded", refuse)


@pytest.mark.parametrize(("task", "profile"), EVERY)
def test_a_study_and_its_task_are_made_without_data(no_games, monkeypatch, tmp_path, task, profile):
    if task == "chess":
        monkeypatch.setattr("qsft_lite.tasks.chess.study.ChessGame", NoEngine)
    study = Study.of(task, profile, output=tmp_path)
    assert study.settings == module_of(task).PROFILES[profile]
    assert study.seeds == tuple(range(study.settings.seeds)) and len(study.rows) >= 7
    one = study.of_seed(study.seeds[-1])
    assert one.acts["max_new_tokens"] >= 1 and len(one.tokenizer) > 10
    first, values = one.config("behavior"), one.config("values", tmp_path / "run", max_steps=3)
    assert isinstance(first, QSFTConfig) and values.stage == "values" and values.max_steps == 3
    assert values.learning_rate == study.settings.value_learning_rate
    assert first.learning_rate == study.settings.learning_rate
    assert (first.save_strategy, values.save_strategy) == ("no", "steps")
    assert first.seed == study.seeds[-1]
    assert not (tmp_path / study.folder.name).exists()
    with pytest.raises(NoGames):
        one.games  # noqa: B018


class NoEngine:
    """A game of chess with nobody to play against: the words are all that is asked of it."""

    def __init__(self, **options):
        from qsft_lite.tasks.chess.text import game_words

        self.texts = game_words()


def test_the_page_of_full_scale_runs_has_every_gpu_profile():
    page = (ROOT / "docs" / "full_scale.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| ([\d,]+) \| (\d+) \|", page, re.MULTILINE)
    said = {task: (int(games.replace(",", "")), int(seeds)) for task, games, seeds in rows}
    profiles = {task: module_of(task).PROFILES["gpu"] for task in STUDIED}
    assert said == {task: (one.games, one.seeds) for task, one in profiles.items()}


@pytest.mark.parametrize("task", [task for task in STUDIED if task != "chess"])
def test_the_network_of_the_gpu_profile_can_be_made(task):
    """On no device: shapes are computed, and no weights."""
    found = changed(module_of(task).PROFILES["gpu"], {"layers": 1})
    model = module_of(task).TASK(found, 0).new_model()
    config = text_config(model)
    assert config.num_hidden_layers == 1 and config.hidden_size == found.width
    assert model.get_output_embeddings().weight.device == torch.device("cpu")


def test_another_batch_on_more_processes_is_the_same_batch(monkeypatch):
    task = module_of("gridworld").TASK(BASE, 0)
    assert task.config("values").per_device_train_batch_size == BASE.batch_rows
    monkeypatch.setattr("qsft_lite.study.task._processes", lambda: 4)
    assert task.config("values").per_device_train_batch_size == BASE.batch_rows // 4


@pytest.mark.parametrize("task", STUDIED)
def test_an_estimate_takes_few_games(task):
    settings = module_of(task).PROFILES["gpu"]
    few = settings.with_few(64)
    assert few.games == 64 and few.value_games in (0, 64)
    same = {"games": 0, "value_games": 0, "rules_steps": 0, "measured_games": 0}
    same = {name: 0 for name in same if hasattr(settings, name)}
    if task == "chess":
        assert few.rules_steps == 1
    else:
        same.pop("measured_games", None)
    assert dataclasses.replace(few, **same) == dataclasses.replace(settings, **same)
