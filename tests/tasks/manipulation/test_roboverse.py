"""COG's own simulator: the adapter on a stand-in, and where it is at hand on the real one.

PYTHONPATH=path/to/roboverse pytest tests/tasks/manipulation/test_roboverse.py
"""

import sys
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest

from qsft_lite import envs
from qsft_lite.evaluate import evaluate
from qsft_lite.tasks.manipulation.bins import ActionBins


class StandIn:
    """A gripper in a unit cube that wants to be open at the right, with roboverse's contract."""

    ee_pos_low, ee_pos_high = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def reset(self):
        self.place, self.open = np.random.uniform(0.2, 0.5, 3), 1.0
        return self.seen()

    def seen(self):
        state = np.concatenate([self.place, [0, 0, 0, 1], [0.03, -0.03], [self.open]])
        image = np.zeros((48, 48, 3), np.float32)
        image[0, 0] = 1.0
        place = np.array([0.9, 0.5, 0.1])
        return {"state": state, "image": image.flatten(), "object_position": place}

    def step(self, action):
        self.place = np.clip(self.place + 0.2 * action[:3], 0, 1)
        self.open = float(action[6] > 0.5) if abs(action[6]) > 0.5 else self.open
        return self.seen(), float(self.place[0] > 0.9 and self.open), False, {}


@pytest.fixture
def stand_in(monkeypatch):
    made = []

    def make(name, transpose_image):
        assert transpose_image is False
        made.append(name)
        return SimpleNamespace(unwrapped=StandIn())

    monkeypatch.setitem(sys.modules, "roboverse", SimpleNamespace(make=make))
    return made


RIGHT, SHUT = "x4 y2 z2 a2 b2 c2 g0 s0\n", "x4 y2 z2 a2 b2 c2 g1 s0\n"


def make(**options):
    bins = ActionBins.uniform(5)
    return envs.make("manipulation", task="tray", simulator="roboverse", bins=bins, **options)


def test_the_contract_is_translated(stand_in):
    env = make()
    assert stand_in == ["Widow250PickTray-v0"] and env.max_steps == 40
    text, info = env.reset(seed=3)
    assert text.endswith(" open put the thing on the tray <image>\n")
    assert text.startswith(f"X{int(info['state'][0] * 25):02d} Y{int(info['state'][1] * 25):02d} Z")
    assert info["image"].shape == (48, 48, 3) and info["image"].dtype == np.uint8
    assert info["image"][0, 0].tolist() == [255] * 3 and info["image"].sum() == 3 * 255
    assert info["state"].shape == (10,) and env.render(96).shape == (96, 96, 3)
    again, _ = env.reset(seed=3)
    assert again == text != env.reset(seed=4)[0]
    env.reset(seed=3)
    after, reward, done, _, more = env.step(SHUT)  # above 0 ours shuts, and theirs opens
    assert " shut put" in after and more["state"][0] == pytest.approx(info["state"][0] + 0.16)
    while not done:
        _, reward, done, truncated, more = env.step(RIGHT)
        assert not truncated
    assert reward == 1.0 and more["success"]
    words = make(format="state", images=False)
    assert "thing X22 Y12 Z02 put the thing" in words.reset(seed=3)[0]


def test_numpy_s_own_chances_are_left_alone(stand_in):
    env = make()
    np.random.seed(1)
    expected = np.random.random(3)
    np.random.seed(1)
    env.reset(seed=5)
    np.testing.assert_array_equal(np.random.random(3), expected)


def test_one_episode_at_a_time(stand_in):
    policy = SimpleNamespace(act=lambda histories, images: [RIGHT] * len(histories))
    assert evaluate(policy, make(), 3, seed=0, batch=1).mean == 1.0
    with pytest.raises(RuntimeError, match="one simulator a process"):
        evaluate(policy, make(), 3, seed=0, batch=3)


def test_what_cannot_be_is_refused(stand_in, monkeypatch):
    with pytest.raises(ValueError, match="unknown task of roboverse 'push'"):
        envs.make("manipulation", task="push", simulator="roboverse")
    with pytest.raises(ValueError, match="have the start 'prior' only"):
        make().reset(options={"start": "task"})
    monkeypatch.setitem(sys.modules, "roboverse", None)
    with pytest.raises(ImportError, match="put it on PYTHONPATH"):
        make()


@pytest.mark.skipif(find_spec("roboverse") is None, reason="roboverse is not on PYTHONPATH")
def test_its_own_script_succeeds_through_our_words():
    from roboverse.policies import policies

    env = envs.make("manipulation", simulator="roboverse", bins=ActionBins.uniform(21))
    won = 0
    for seed in range(3):
        env.reset(seed=seed)
        np.random.seed(seed)
        script, over = policies["pickplace"](env.table.env), False
        while not over:
            action = np.clip(np.array(script.get_action()[0], dtype=float), -1, 1)
            opens = action[6] > 0.5 or (action[6] > -0.5 and env.table.env.is_gripper_open)
            action[6] = -1 if opens else 1
            text = env.bins.write(env.bins.encode(action[None]))[0]
            _, reward, done, truncated, _ = env.step(text)
            over = done or truncated
        won += reward
    assert won >= 2  # five of five when tried
