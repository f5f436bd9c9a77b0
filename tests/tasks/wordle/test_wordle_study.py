"""Wordle as a study: its words, its games, its networks."""

from types import SimpleNamespace

import numpy as np
import pytest

from qsft_lite.study import changed
from qsft_lite.tasks.guessing import play_games, to_episodes
from qsft_lite.tasks.guessing_study import MEASURED_SEED
from qsft_lite.tasks.wordle.rules import read_words
from qsft_lite.tasks.wordle.study import PROFILES, WordleTask, some_words


def test_words_are_spread_over_the_list():
    every = list(read_words())
    words = some_words(every, 40)
    assert len(set(words)) == 40 and words == sorted(words)
    assert {word[0] for word in words} > set("abcmpst")
    assert some_words(every, 0) == every and len(every) == 448


def task(*changes, seed=0):
    return WordleTask(changed(PROFILES["smoke"], [*changes, "games=50"]), seed)


def test_parts_of_the_data_are_different_games():
    one = task()
    parts = [one.recorded(50, part)["text"] for part in ("behavior", "values", "held out")]
    assert len({str(part) for part in parts}) == 3
    assert one.games["text"] == parts[0] == task().games["text"] != task(seed=1).games["text"]
    assert task("value_games=0").value_episodes[:] == task("value_games=0").episodes[:]
    assert len(task("value_games=20").value_episodes) == 20


def test_each_word_is_asked_equally_often():
    one = task("test_games=20")
    secrets = [start["secret"] for start in one.starts(test=True)]
    counts = [secrets.count(word) for word in one.words]
    assert sum(counts) == 20 and max(counts) - min(counts) == 1


@pytest.mark.parametrize("rewards", ["end", "step"])
def test_returns_are_scaled_from_all_guesses_lost_to_the_first_one_right(rewards):
    one = task(f"rewards={rewards}")
    scores = [sum(game) for game in one.games["reward"]]
    scaled = [sum(game) for game in one.episodes["reward"]]
    assert scaled == pytest.approx((np.array(scores) + 6) / 6, abs=1e-6)
    assert one.data_mean == pytest.approx(np.mean(scores))


def test_letters_are_another_tokenizer_and_spelled_words_another_start():
    letters = task("format=letters")
    assert letters.acts["max_new_tokens"] > 1 and len(letters.tokenizer) < 50
    for of_format in ("format=words", "format=clues"):
        models = task(of_format).new_model(), task(of_format, "spelled=true").new_model()
        assert not np.allclose(*(m.get_input_embeddings().weight.detach() for m in models))


def test_a_clue_is_the_sum_of_its_letter_and_its_color():
    one = task("format=clues", "spelled=true")
    vectors = one.new_model().get_input_embeddings().weight.detach().double()
    known = one.tokenizer.get_vocab()
    word = one.words[0]
    green, yellow = (vectors[known[f"{word[0]}1{color} "]] for color in "gy")
    for other in {w[0] for w in one.words} - {word[0]}:
        differs = vectors[known[f"{other}1g "]] - vectors[known[f"{other}1y "]]
        assert np.allclose(green - yellow, differs, atol=1e-6)


def test_the_data_are_drawn_by_the_probabilities_that_pi_is_measured_against():
    """Guesses of a state, counted, against MixturePlayer.probabilities."""
    one = WordleTask(PROFILES["smoke"], 0)
    consistent = np.tile(np.arange(len(one.words)) % 3 == 1, (40_000, 1))
    player = one.player(0)
    counts = np.bincount(player.choose(consistent, 6), minlength=len(one.words)) / 40_000
    exact = player.probabilities(consistent[:1])[0]
    assert exact.sum() == pytest.approx(1) and np.abs(counts - exact).max() < 0.01


@pytest.mark.parametrize("rewards", ["end", "step"])
@pytest.mark.parametrize("of_format", ["words", "clues"])
def test_networks_are_measured_where_guesses_are_and_against_what_their_values_are_of(
    of_format, rewards
):
    """Exact probabilities, read from the tokens, have no divergence; true returns the rank 1."""
    one = task(f"format={of_format}", f"rewards={rewards}")
    rules, player = one.env.rules, one.player(MEASURED_SEED)
    played = play_games(rules, player, np.arange(one.settings.measured_games) % len(one.names))
    to_come = []
    for game in to_episodes(rules, played)["reward"]:
        for action in range(1, len(game), 2):
            to_come.append(sum(game[action:] if rewards == "step" else game))

    def values_of(prefixes, candidates):
        histories = [one.tokenizer.decode(prefix[1:]) for prefix in prefixes]
        fits = np.array([rules.consistent(rules.read_history(text)) for text in histories])
        values = np.repeat(np.array(to_come)[:, None], len(one.names), axis=1)
        return list(np.log(player.probabilities(fits))), list(values)

    exact = SimpleNamespace(tokenizer=one.tokenizer, prompt="", values_of=values_of)
    found = one.measure(exact)
    assert found["KL(pi_beta || pi_phi)"] == pytest.approx(0, abs=1e-9)
    assert found["rank correlation with the return"] == pytest.approx(1)
