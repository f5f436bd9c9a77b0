"""Small games with policies of random weights, for tests of the explorers."""

from qsft_lite import models
from qsft_lite.baselines.trained import ClonedPolicy
from qsft_lite.envs import generate, make
from qsft_lite.policy import QSFTPolicy
from qsft_lite.tasks.chess import widgets as chess_widgets
from qsft_lite.tasks.endgames.values import exact_q
from qsft_lite.tasks.twenty_questions.rules import NO, START, YES, read_objects

WORDS = ("about", "chair", "there", "where", "tying", "later")


def _policy(tokenizer, context, score, **options):
    """A policy with a value network unlike pi."""
    shape = {"layers": 1, "width": 16, "heads": 2, "context": context}
    pi, p = (models.small_model(tokenizer, **shape, seed=seed) for seed in (1, 2))
    for model in (pi, p):
        model.get_input_embeddings().weight.data *= 40  # far from uniform
    if score != "paired":
        options["dummy"] = models.dummy_id(tokenizer)
    return QSFTPolicy(pi, p, tokenizer, 5.0, score, **options)


def wordle_policy(word_format="words", score="paired", **options):
    """A policy for Wordle with six words, and the rules."""
    env = make("wordle", word_list=WORDS, format=word_format)
    of_texts = models.character_tokenizer if word_format == "letters" else models.word_tokenizer
    return _policy(of_texts(env.texts), 128, score, **options), env.rules


def questions_policy(score="paired", **options):
    """A policy for Twenty Questions with 24 objects, and the rules."""
    env = make("twenty_questions", objects=read_objects()[::6][:24])
    tokenizer = models.line_tokenizer(env.texts)
    return _policy(tokenizer, 64, score, max_new_tokens=1, **options), env.rules


def agent_policy(env, score="paired", context=2_048, tokenizer=None, **options):
    """A policy for WebShop or ALFWorld, a word a token; without values for score None."""
    tokenizer = tokenizer or models.word_tokenizer(env.texts)
    policy = _policy(tokenizer, context, score or "paired", **options)
    if score is None:
        return ClonedPolicy(policy.behavior, tokenizer, **options)
    return policy


def transcript(rules, secret, questions):
    """The texts of a game of Twenty Questions."""
    texts = [START]
    for question in questions:
        yes = rules.answer(question, rules.secret_index(secret))
        texts += [rules.question_texts[question], YES if yes else NO]
    return texts


def endgames(count):
    """Games of king and queen against king, as boards and moves."""
    env = make("endgames", materials="Q", format="pieces")
    rows = generate("endgames", count, 3, materials="Q", format="pieces")
    return [chess_widgets.game_of(env, row) for row in rows]


def values_of(board):
    """Exact values of its moves."""
    return exact_q(board, gamma=0.9)
