r"""Three tasks of Meta-World (Yu et al., 2019; version 3, MuJoCo) behind the same environment.

Only what the two share: of an action x, y, z and the gripper count, and a stop stands still; there
is one start, "prior". An extra, which is imported when such a table is made:

    pip install "qsft-lite[metaworld]"

Pictures need a driver that draws without a screen: set MUJOCO_GL=egl, or MUJOCO_GL=osmesa with
Debian's libosmesa6, before Python starts.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qsft_lite.tasks.checks import check_choice
from qsft_lite.tasks.manipulation.simulator import SimulatorTable
from qsft_lite.tasks.manipulation.text import IMAGE, place_words

# Of each task its name there, and what the robot is told.
METAWORLD_TASKS = {
    "push": ("push-v3", "push the puck to the goal"),
    "pick_place": ("pick-place-v3", "lift the puck to the goal"),
    "drawer_open": ("drawer-open-v3", "open the drawer"),
}
HORIZON = 150
LOW, HIGH = np.array([-0.5, 0.4, 0.0]), np.array([0.5, 1.0, 0.5])  # of places in words


class MetaWorldTable(SimulatorTable):
    """One table.

    Raises ValueError for another task, and ImportError where the extra is not installed.
    """

    simulator, horizon = "metaworld", HORIZON

    def __init__(self, task: str):
        check_choice(task, METAWORLD_TASKS, "task of metaworld")
        try:
            from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE as KINDS
        except ImportError as error:
            raise ImportError(
                "simulator='metaworld' needs Meta-World and MuJoCo: "
                'pip install "qsft-lite[metaworld]", or pip install metaworld packaging'
            ) from error
        self.task, self._kind = task, KINDS[f"{METAWORLD_TASKS[task][0]}-goal-observable"]
        self._renderers: dict[int, Any] = {}
        self.reset("prior", np.random.default_rng(0))

    def clone(self) -> MetaWorldTable:
        """Another table of the same task."""
        return MetaWorldTable(self.task)

    def reset(self, start: str, rng: np.random.Generator) -> None:
        """Set the table; the seed of Meta-World's own draws is drawn."""
        self.env = self._kind(seed=int(rng.integers(2**31)))
        self.observation, _ = self.env.reset()
        self._success, self._command, self._renderers = False, 1.0, {}

    def step(self, action: np.ndarray) -> None:
        """One step; action: (8,). There the gripper shuts above 0 too."""
        if action[7] <= 0:
            self._command = -1.0 if action[6] > 0 else 1.0
        way = np.zeros(3) if action[7] > 0 else action[:3]
        given = np.append(way, -self._command).astype(np.float32)
        self.observation, _, _, _, info = self.env.step(given)
        self._success = bool(info["success"])

    def success(self) -> bool:
        """Whether the goal is reached."""
        return self._success

    def instruction(self) -> str:
        """What the robot is told."""
        return METAWORLD_TASKS[self.task][1]

    def instruction_words(self) -> tuple[str, ...]:
        """Texts with every word of a state that is of this simulator alone."""
        return (f"{self.instruction()}\n", "thing ", "goal ")

    def text(self, format: str) -> str:
        """The state as text: the place of the hand, and those of thing and goal, or a picture."""
        places = (self.observation[at : at + 3] for at in (0, 4, 36))
        hand, thing, goal = (place_words(place, LOW, HIGH) for place in places)
        grip = "open" if self.observation[3] > 0.5 else "shut"
        if format == "image":
            return f"{hand} {grip} {self.instruction()} {IMAGE}\n"
        return f"{hand} {grip} thing {thing} goal {goal} {self.instruction()}\n"

    def state(self) -> np.ndarray:
        """(10,) float64 as `Tables.state`; the angles, and what it feels, are 0."""
        width = self.observation[3]
        return np.concatenate([self.observation[:3], np.zeros(3), [width, width, self._command, 0]])

    def image(self, size: int) -> np.ndarray:
        """(size, size, 3) uint8 from the camera corner2, without shadows, which takes longest."""
        import mujoco

        try:
            renderer = self._renderers.get(size) or mujoco.Renderer(self.env.model, size, size)
        except Exception as error:
            raise RuntimeError(
                "MuJoCo cannot draw here: set MUJOCO_GL=egl (or osmesa) before Python starts, "
                "or use format='state', images=False"
            ) from error
        self._renderers[size] = renderer
        renderer.update_scene(self.env.data, camera="corner2")
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            renderer.scene.flags[flag] = 0
        return renderer.render()[::-1].copy()  # that camera stands on its head
