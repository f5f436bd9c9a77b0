"""A policy of random weights for Wordle with six words, for tests of its explorers."""

from qsft_lite import models
from qsft_lite.envs import make
from qsft_lite.policy import QSFTPolicy

WORDS = ("about", "chair", "there", "where", "tying", "later")


def wordle_policy(word_format="words"):
    """A policy with p unlike pi, and the rules."""
    env = make("wordle", word_list=WORDS, format=word_format)
    make_tokenizer = {"words": models.word_tokenizer, "letters": models.character_tokenizer}
    tokenizer = make_tokenizer[word_format](env.texts)
    options = {"layers": 1, "width": 16, "heads": 2, "context": 128}
    pi, p = (models.small_model(tokenizer, **options, seed=seed) for seed in (1, 2))
    for model in (pi, p):
        model.get_input_embeddings().weight.data *= 40  # far from uniform
    dummy = models.dummy_id(tokenizer)
    return QSFTPolicy(pi, p, tokenizer, 5.0, "ratio", dummy=dummy), env.rules
