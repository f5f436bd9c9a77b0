"""A robot's policy of random weights that sees, for tests of the explorers."""

from qsft_lite import models
from qsft_lite.baselines.trained import ClonedPolicy
from qsft_lite.evaluate import evaluate
from qsft_lite.policy import QSFTPolicy
from qsft_lite.tasks.manipulation.env import Manipulation
from qsft_lite.tasks.manipulation.players import StatePlayer
from qsft_lite.tasks.manipulation.replay import starts_of


def robot_policy(env: Manipulation, values: bool = True, **options):
    """A policy far from uniform, whose values differ from pi; without values a clone."""
    tokenizer = models.word_tokenizer(env.texts, images=env.images)
    shape = {"layers": 1, "width": 32, "heads": 2, "context": 64}
    make = models.small_vision_model if env.images else models.small_model
    further = {"keypoints": 8} if env.images else {}
    pi, p = (make(tokenizer, **shape, **further, seed=seed) for seed in (1, 2))
    for model in (pi, p):
        model.get_input_embeddings().weight.data *= 8
        for name, weight in model.named_parameters():
            if "proj" in name and weight.ndim == 2:
                weight.data *= 10  # or it would hardly look at the state
    options = {"max_new_tokens": 8, **options}
    if not values:
        return ClonedPolicy(pi, tokenizer, **options)
    return QSFTPolicy(pi, p, tokenizer, 5.0, "paired", **options)


def robot_episode():
    """An environment, its policy, the start of an episode that a script played, and the episode."""
    env = Manipulation("tray", format="state")
    found = evaluate(StatePlayer("tray", noise=0.1), env, 1, 1, max_steps=6)
    return env, robot_policy(env), starts_of(found)[0], found.transcripts[0]
