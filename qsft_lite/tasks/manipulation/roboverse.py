r"""Three of COG's own tasks (Singh et al., 2020) behind the same environment, from your checkout.

roboverse is in no package registry, so it is yours to bring. It has the robot that COG's data were
made with, and most likely Q-SFT's: a WidowX 250 over a table, in PyBullet.

    git clone https://github.com/avisingh599/roboverse
    pip install pybullet gym
    PYTHONPATH=roboverse python ...

    env = make("manipulation", task="tray", simulator="roboverse")
    result = evaluate(policy, env, episodes=50, seed=0, batch=1)

The simulator is one for the whole process, so episodes are played one at a time. There is one
start, "prior". Its own scripts act on `env.table.env`; a test does so through our words.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from PIL import Image

from qsft_lite.tasks.checks import check_choice
from qsft_lite.tasks.manipulation.picture import SIZE
from qsft_lite.tasks.manipulation.simulator import SimulatorTable
from qsft_lite.tasks.manipulation.text import IMAGE, place_words

# Of each task its name there, what the robot is told, and the steps that COG gives it.
ROBOVERSE_TASKS = {
    "tray": ("Widow250PickTray-v0", "put the thing on the tray", 40),
    "drawer": ("Widow250DoubleDrawerOpenGraspNeutral-v0", "take the ball out of the drawer", 50),
    "shut_drawer": (
        "Widow250DoubleDrawerCloseOpenGraspNeutral-v0",
        "take the ball out of the lower drawer",
        80,
    ),
}


class RoboverseTable(SimulatorTable):
    """One table.

    Raises ValueError for another task, and ImportError where roboverse cannot be imported.
    """

    simulator = "roboverse"
    now: RoboverseTable | None = None  # whose episode the process's simulator is in

    def __init__(self, task: str):
        check_choice(task, ROBOVERSE_TASKS, "task of roboverse")
        try:
            import roboverse
        except ImportError as error:
            raise ImportError(
                "simulator='roboverse' needs COG's simulator: clone "
                "https://github.com/avisingh599/roboverse, put it on PYTHONPATH, and "
                "pip install pybullet gym"
            ) from error
        name, self._told, self.horizon = ROBOVERSE_TASKS[task]
        self.task = task
        # Without gym's checks of each step, which numpy 2 has outgrown.
        self.env = roboverse.make(name, transpose_image=False).unwrapped
        self.reset("prior", np.random.default_rng(0))

    def clone(self) -> RoboverseTable:
        """Another table, of the one simulator."""
        return copy.copy(self)

    def reset(self, start: str, rng: np.random.Generator) -> None:
        """Set the table; its own draws are from numpy's global state, which is left as it was."""
        before = np.random.get_state()
        np.random.seed(int(rng.integers(2**31)))
        self.observation, self._success = self.env.reset(), False
        np.random.set_state(before)
        RoboverseTable.now = self

    def step(self, action: np.ndarray) -> None:
        """One step; action: (8,). There the gripper opens above 0."""
        if RoboverseTable.now is not self:
            raise RuntimeError(
                "roboverse has one simulator a process, and another episode has begun in it: play "
                "one at a time, evaluate(..., batch=1)"
            )
        given = np.array(action, dtype=float)
        given[6] = -1.0 if action[6] > 0 else 1.0
        self.observation, reward, _, _ = self.env.step(given)
        self._success = reward > 0

    def success(self) -> bool:
        """Whether the goal is reached."""
        return bool(self._success)

    def instruction(self) -> str:
        """What the robot is told."""
        return self._told

    def instruction_words(self) -> tuple[str, ...]:
        """Texts with every word of a state that is of this simulator alone."""
        return (f"{self._told}\n", "thing ")

    def text(self, format: str) -> str:
        """The state as text: the place of the hand, and that of the thing, or a picture."""
        state = self.observation["state"]
        hand = f"{self._place(state[:3])} {'open' if state[9] > 0.5 else 'shut'}"
        if format == "image":
            return f"{hand} {self._told} {IMAGE}\n"
        return f"{hand} thing {self._place(self.observation['object_position'])} {self._told}\n"

    def state(self) -> np.ndarray:
        """(10,) float64, roboverse's own: place, quaternion, fingers, and whether it is open."""
        return np.asarray(self.observation["state"], dtype=float)

    def image(self, size: int) -> np.ndarray:
        """(size, size, 3) uint8; the policy's picture of 48, scaled for people."""
        seen = np.asarray(self.observation["image"]).reshape(SIZE, SIZE, 3)
        seen = (255 * seen).round().astype(np.uint8)
        return np.asarray(Image.fromarray(seen).resize((size, size), Image.Resampling.NEAREST))

    def _place(self, point: Any) -> str:
        return place_words(np.asarray(point), self.env.ee_pos_low, self.env.ee_pos_high)
