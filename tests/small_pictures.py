"""A toy task where the picture alone says which action is right, and small models that see it."""

import numpy as np
from datasets import Dataset

from qsft_lite import models
from qsft_lite.data import save_trajectories

ASK = "<image> which side?\n"
ACTIONS = ("left\n", "right\n")
TOKENIZER = models.word_tokenizer([ASK, *ACTIONS], images=True)
SIZE, TOKENS = 8, 4
COLORS = {"red": (230, 30, 30), "blue": (30, 30, 230)}


def picture(color, random=None):
    """(8, 8, 3) uint8, red or blue with some noise."""
    noise = 0 if random is None else random.integers(-25, 26, (SIZE, SIZE, 3))
    return np.clip(np.full((SIZE, SIZE, 3), COLORS[color]) + noise, 0, 255).astype(np.uint8)


def vision_model(seed=0, width=32, context=64):
    """A small model of the words above."""
    return models.small_vision_model(
        TOKENIZER,
        layers=2,
        width=width,
        heads=2,
        context=context,
        seed=seed,
        image_size=SIZE,
        keypoints=16,
        image_tokens=4,
    )


def write_episodes(folder, count, turns=2, seed=0):
    """Random play, recorded: red asks for left, blue for right; the last turn alone pays.

    Returns the path of the JSON lines; the pictures are in two array files and a PNG beside it.
    """
    random = np.random.default_rng(seed)
    shown = [[("red", "blue")[random.integers(2)] for _ in range(turns)] for _ in range(count)]
    pictures = [picture(color, random) for colors in shown for color in colors]
    half = len(pictures) // 2
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images-00000.npy", np.stack(pictures[:half]))
    np.save(folder / "images-00001.npy", np.stack(pictures[half:]))
    names = [f"images-00000.npy#{row}" for row in range(half)]
    names += [f"images-00001.npy#{row}" for row in range(len(pictures) - half)]
    rows = []
    for number, colors in enumerate(shown):
        chosen = random.integers(2, size=turns)
        texts = [text for side in chosen for text in (ASK, ACTIONS[side])]
        right = int((("red", "blue")[chosen[-1]]) == colors[-1])
        rows.append(
            {
                "text": texts,
                "is_action": [False, True] * turns,
                "reward": [0.0] * (2 * turns - 1) + [float(right)],
                "done": True,
                "images": [
                    str(folder / name) for name in names[number * turns : (number + 1) * turns]
                ],
            }
        )
    save_trajectories(Dataset.from_list(rows), folder / "episodes.jsonl")
    return folder / "episodes.jsonl"


class Sides:
    """The toy task as an environment: one turn, a picture, and 1 for the right side."""

    images = True

    def clone(self):
        return Sides()

    def reset(self, *, seed=None, options=None):
        random = np.random.default_rng(seed)
        self.color = ("red", "blue")[random.integers(2)]
        return ASK, {"image": picture(self.color, random)}

    def step(self, action):
        right = action == ACTIONS[self.color == "blue"]
        return "\n", float(right), True, False, {"success": right}
