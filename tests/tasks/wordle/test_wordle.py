"""Wordle against naive twins of its rules, of its players, and of itself one game at a time."""

import copy
import hashlib
import itertools
import json
from functools import cache
from importlib.resources import files

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st
from places import SHARED_DATA

from qsft_lite import envs
from qsft_lite.models import word_tokenizer
from qsft_lite.tasks.wordle.data import play_games
from qsft_lite.tasks.wordle.env import Wordle
from qsft_lite.tasks.wordle.players import (
    PLAYERS,
    ConsistentPlayer,
    InformationGainPlayer,
    MixturePlayer,
    OptimalPlayer,
    RandomPlayer,
)
from qsft_lite.tasks.wordle.rules import (
    FEEDBACK,
    SOLVED,
    START,
    TRIES,
    WordleRules,
    feedback_table,
    read_words,
)
from qsft_lite.tasks.wordle.text import parts, read_colors

LMRL_WORDS = SHARED_DATA / "lmrl/wordle_official_400.txt"
FEW_LETTERS = st.text("abc", min_size=5, max_size=5)  # so that letters come several times
ALIKE = ("bound", "found", "hound", "mound", "pound", "round", "sound", "wound", "would", "could")


@cache
def naive_feedback(guess: str, secret: str, rules: str) -> str:
    """The rules as a person would say them."""
    if rules == "lmrl":
        return "".join(
            "g" if g == s else "y" if g in secret else "b"
            for g, s in zip(guess, secret, strict=True)
        )
    colors = ["g" if g == s else "b" for g, s in zip(guess, secret, strict=True)]
    spare = [s for s, color in zip(secret, colors, strict=True) if color != "g"]
    for i, letter in enumerate(guess):
        if colors[i] != "g" and letter in spare:
            colors[i] = "y"
            spare.remove(letter)
    return "".join(colors)


def brute_force(words: list[str], secrets: list[str], rules: str, tries: int) -> int:
    """Wrong guesses summed over the secrets, with the best guess at every turn; no pruning."""
    if not secrets or tries == 0:
        return 0
    costs = []
    for guess in words:
        parts: dict[str, list[str]] = {}
        for secret in secrets:
            parts.setdefault(naive_feedback(guess, secret, rules), []).append(secret)
        solved = parts.pop("ggggg", [])
        if len(parts) == 1 and not solved:  # tells nothing: one try fewer, and all else as before
            continue
        costs.append(
            sum(len(part) + brute_force(words, part, rules, tries - 1) for part in parts.values())
        )
    return min(costs)


# Words and feedback


def test_the_shipped_list_is_the_one_of_its_recipe():
    folder = files("qsft_lite.tasks.wordle") / "words"
    expected, name = (folder / "SHA256SUMS").read_text().split()
    assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == expected
    assert WordleRules().sha256 == expected
    assert len(read_words()) == 448


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crane\nslat\n", "words.txt:2: 'slat' is not"),
        ("crane\n\nslate\n", "words.txt:2: '' is not"),
        ("Crane\n", "words.txt:1: 'Crane' is not"),
        ("crane\nslate\ncrane\n", "words.txt:3: 'crane' is in line 1"),
        ("", "has no words"),
    ],
)
def test_a_bad_word_list_is_named(tmp_path, text, message):
    path = tmp_path / "words.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_words(path)


@pytest.mark.parametrize(
    "content",
    [
        b"crane\nslate",
        b"crane\r\nslate\r\n\r\n",
        b"crane\nslate\n\n  \n",
        b"\xef\xbb\xbfcrane\nslate\n",
    ],
)
def test_a_word_list_is_read_with_its_mark_and_empty_lines_at_its_end(tmp_path, content):
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    assert read_words(path) == read_words(str(path)) == ("crane", "slate")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "latin-1"])
def test_a_word_list_of_another_encoding_is_named(tmp_path, encoding):
    path = tmp_path / "words.txt"
    path.write_bytes("crane\nsläte\n".encode(encoding))
    with pytest.raises(ValueError, match=r"words\.txt: .*UTF-(16|8).*save it as UTF-8"):
        read_words(path)


@given(
    st.lists(FEW_LETTERS, min_size=1, max_size=8, unique=True),
    st.sampled_from(["lmrl", "standard"]),
)
def test_feedback_is_that_of_the_rules(words, rules):
    table = feedback_table(tuple(words), rules)
    for i, j in itertools.product(range(len(words)), repeat=2):
        assert FEEDBACK[table[i, j]] == naive_feedback(words[i], words[j], rules)
        assert (table[i, j] == SOLVED) == (i == j)


@pytest.mark.parametrize(
    ("rules", "guess", "secret", "colors"),
    [
        ("lmrl", "geese", "crane", "byybg"),
        ("standard", "geese", "crane", "bbbbg"),
        ("lmrl", "allay", "label", "yyyyb"),
        ("standard", "allay", "label", "yyybb"),
    ],
)
def test_repeated_letters(rules, guess, secret, colors):
    table = feedback_table((guess, secret), rules)
    assert FEEDBACK[table[0, 1]] == colors


@given(
    st.lists(FEW_LETTERS, min_size=2, max_size=20, unique=True),
    st.sampled_from(["lmrl", "standard"]),
    st.sampled_from(["letters", "words", "clues"]),
    st.data(),
)
def test_consistent_words_are_those_that_explain_the_history(words, rules, format, data):
    env = Wordle(rules, words, format)
    history, info = env.reset(options={"secret": data.draw(st.sampled_from(words))})
    played = []
    for _ in range(3):
        guess = data.draw(st.sampled_from(words))
        action = env.rules.guess_texts[words.index(guess)]
        observation, _, terminated, _, _ = env.step(action)
        history += action + observation
        played.append((guess, read_colors(observation)))
        if terminated:
            break
    consistent = env.rules.consistent(env.rules.read_history(history))
    for word, is_consistent in zip(words, consistent, strict=True):
        explains = all(naive_feedback(guess, word, rules) == colors for guess, colors in played)
        assert is_consistent == explains
    assert consistent[words.index(info["secret"])]


def test_a_history_that_is_none_is_named():
    rules = WordleRules(word_list=["crane", "slate"])
    for history, message in (
        ("Hangman:\n", "start"),
        ("Wordle:\nc r a n e\n", "last line"),
        ("Wordle:\nc r a n e\nb y g b x\n", "line 3"),
        ("Wordle:\no t h e r\nb y g b b\n", "word list"),
        ("Wordle:\nc r a n e\n\n", "line 3"),
    ):
        with pytest.raises(ValueError, match=message):
            rules.read_history(history)
    with pytest.raises(ValueError, match="consistent"):
        RandomPlayer(rules).act(["Wordle:\nc r a n e\nb b b b b\n"])


# The environments


@pytest.mark.parametrize("format", ["letters", "words"])
@pytest.mark.filterwarnings("ignore:.*not within a reasonable range")
def test_gymnasium_accepts_the_environment(format):
    check_env(envs.make("wordle", format=format), skip_render_check=True)


def test_a_game_reads_as_in_lmrl_gym():
    env = envs.make("wordle", rules="lmrl", word_list=["crane", "slate", "eerie"])
    assert env.reset(options={"secret": "crane"}) == (START, {"secret": "crane"})
    assert env.step("e e r i e\n") == (
        "y y y b g\n",
        -1.0,
        False,
        False,
        {"success": False, "valid": True},
    )
    assert env.step("c r a n e\n") == (
        "g g g g g\n",
        0.0,
        True,
        False,
        {"success": True, "valid": True},
    )
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step("c r a n e\n")


def test_a_game_in_words_takes_one_token_a_turn():
    env = envs.make("wordle", word_list=["crane", "slate"], format="words")
    start, _ = env.reset(options={"secret": "crane"})
    answers = [env.step(guess)[0] for guess in ("slate\n", "other\n", "crane")]
    assert answers == ["bbgbg\n", "\n", "ggggg\n"]
    tokenizer = word_tokenizer(env.texts)
    for text in (start, "slate\n", "crane\n", *answers):
        assert len(tokenizer(text)["input_ids"]) == 1
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_clues_are_the_guess_and_its_colors_one_token_a_letter():
    env = envs.make("wordle", word_list=["crane", "slate"], format="clues")
    start, _ = env.reset(options={"secret": "crane"})
    answers = [env.step(guess)[0] for guess in ("slate\n", "other\n", "crane")]
    assert answers == ["s1b l2b a3g t4b e5g\n", "\n", "c1g r2g a3g n4g e5g\n"]
    assert all(env.observation_space.contains(answer) for answer in answers)
    tokenizer = word_tokenizer(env.texts)
    for text, count in [(start, 1), ("slate\n", 1), (answers[0], 5), ("\n", 1), (answers[2], 5)]:
        assert len(tokenizer(text)["input_ids"]) == count
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@given(st.lists(FEW_LETTERS, min_size=2, max_size=9, unique=True), st.data())
def test_formats_tell_the_same_and_clues_of_another_guess_are_refused(words, data):
    of_format = {name: WordleRules("lmrl", words, name) for name in ("letters", "words", "clues")}
    guess, other = (data.draw(st.integers(0, len(words) - 1)) for _ in range(2))
    feedback = int(of_format["words"].table[guess, data.draw(st.integers(0, len(words) - 1))])
    for rules in of_format.values():
        answer = rules.answer_text(guess, feedback)
        assert read_colors(answer) == FEEDBACK[feedback]
        assert rules.read_turn(rules.guess_texts[guess], answer) == (guess, feedback)
        tokens = word_tokenizer((START, *rules.guess_texts, *rules.answer_texts))
        assert tokens.decode(tokens(answer)["input_ids"]) == answer
    clues = of_format["clues"]
    if guess != other:
        assert clues.read_turn(clues.guess_texts[other], clues.answer_text(guess, feedback)) is None
    assert clues.read_turn(clues.guess_texts[guess], FEEDBACK[feedback]) is None


@pytest.mark.parametrize(
    "guess", ["x x x x x\n", "c r a n\n", "", "\n", "C R A N E\n", "c r a n e s\n"]
)
def test_a_guess_outside_the_list_uses_up_a_try(guess):
    env = envs.make("wordle", word_list=["crane", "slate"])
    env.reset(options={"secret": "crane"})
    for turn in range(1, TRIES + 1):
        answer = env.step(guess)
        assert answer == ("\n", -1.0, turn == TRIES, False, {"success": False, "valid": False})


def test_spaces_and_the_newline_may_be_missing():
    for guess in ("c r a n e\n", "c r a n e", "crane\n", "crane"):
        env = envs.make("wordle", word_list=["crane", "slate"])
        env.reset(options={"secret": "crane"})
        assert env.step(guess)[4] == {"success": True, "valid": True}


def test_a_bad_secret_or_option_is_named():
    env = envs.make("wordle")
    with pytest.raises(ValueError, match="'watre'.*water"):
        env.reset(options={"secret": "watre"})
    with pytest.raises(ValueError, match="position"):
        env.reset(options={"position": "start"})
    with pytest.raises(ValueError, match="rules"):
        envs.make("wordle", rules="hard")
    with pytest.raises(ValueError, match="format"):
        envs.make("wordle", format="emoji")


def test_secrets_follow_the_seed_and_are_even():
    env = envs.make("wordle", word_list=["crane", "slate", "eerie", "bound"])
    first = [env.reset(seed=seed)[1]["secret"] for seed in range(400)]
    assert first == [env.reset(seed=seed)[1]["secret"] for seed in range(400)]
    counts = [first.count(word) for word in env.rules.words]
    assert min(counts) > 60  # 100 expected, five standard deviations below


def test_copies_share_the_tables_and_nothing_else():
    env = envs.make("wordle", word_list=["crane", "slate"])
    env.reset(options={"secret": "crane"})
    other = copy.deepcopy(env)
    assert other.rules is env.rules
    other.reset(options={"secret": "slate"})
    assert env.step("crane")[4]["success"]


def test_words_share_their_letters_and_feedback_its_colors():
    rules = WordleRules(format="words")
    named = {word: set(parts(word)) for word in rules.guess_texts}
    for word, other in [("crane\n", "crate\n"), ("audio\n", "about\n"), ("abbey\n", "ebony\n")]:
        same = sum(a == b for a, b in zip(word.strip(), other.strip(), strict=True))
        assert len(set(parts(word)) & set(parts(other))) == same
    assert all(len(own) == 5 for own in named.values())
    assert len({frozenset(own) for own in named.values()}) == len(rules.words)
    feedback = set().union(*map(parts, rules.answer_texts))
    assert len(feedback) == 15 and not feedback & set().union(*named.values())
    assert parts("c r a n e\n") == parts("crane\n")
    assert parts(START) == parts("\n") == []
    assert parts("a3g ") == [(0, 2, "a"), (1, 2, "g")]
    assert set(parts("a3g ")) < set(parts("crane\n")) | feedback


# Players


@pytest.mark.parametrize("rules", ["lmrl", "standard"])
@pytest.mark.parametrize("tries", [2, 3, 6])
@pytest.mark.parametrize(
    "words", [ALIKE, tuple("abcab aabbc bcaab cabca ccabb abbca".split()), read_words()[:12]]
)
def test_the_optimum_is_that_of_brute_force(rules, tries, words):
    player = OptimalPlayer(WordleRules(rules, words))
    everything = np.arange(len(words))
    assert player.cost(everything, tries) == brute_force(list(words), list(words), rules, tries)


@pytest.mark.parametrize("rules", ["lmrl", pytest.param("standard", marks=pytest.mark.slow)])
def test_the_optimal_player_earns_what_it_expects_and_nobody_more(rules):
    table = WordleRules(rules)
    secrets = np.arange(len(table.words))
    optimal = OptimalPlayer(table)
    best = play_games(table, optimal, secrets).returns.mean()
    assert best == pytest.approx(optimal.expected_score(), abs=1e-12)
    greedy = play_games(table, InformationGainPlayer(table), secrets).returns.mean()
    consistent = play_games(table, ConsistentPlayer(table), np.tile(secrets, 20)).returns.mean()
    assert consistent < greedy - 0.05 and greedy < best


def test_the_optimum_of_a_large_list_is_refused():
    with pytest.raises(ValueError, match="limit"):
        OptimalPlayer(WordleRules(word_list=ALIKE), limit=5)


def test_greedy_information_gain_maximises_the_entropy_of_the_feedback():
    rules = WordleRules("standard", ALIKE + ("crane", "slate", "eerie"))
    action = InformationGainPlayer(rules).act([START])[0]

    def entropy(guess: str) -> float:
        colors = [naive_feedback(guess, secret, "standard") for secret in rules.words]
        share = np.array([colors.count(c) for c in set(colors)]) / len(colors)
        return -(share * np.log(share)).sum()

    best = max(entropy(word) for word in rules.words)
    assert entropy(action.replace(" ", "").strip()) == pytest.approx(best)


@pytest.mark.parametrize("name", PLAYERS)
@pytest.mark.parametrize("format", ["letters", "words"])
def test_players_play_by_text_as_by_arrays(name, format):
    rules = WordleRules("standard", read_words()[::15], format)
    player = PLAYERS[name](rules, seed=3)
    env = Wordle("standard", rules.words, format)
    returns = []
    for secret in rules.words:
        history, _ = env.reset(options={"secret": secret})
        total, terminated = 0.0, False
        while not terminated:
            action = player.act([history])[0]
            assert action.endswith("\n")
            observation, reward, terminated, _, info = env.step(action)
            assert info["valid"]
            if name in ("consistent", "information_gain"):
                assert rules.consistent(rules.read_history(history))[rules.read_guess(action)]
            history += action + observation
            total += reward
        returns.append(total)
    if name in ("information_gain", "optimal"):
        games = play_games(rules, PLAYERS[name](rules), np.arange(len(rules.words)))
        assert returns == games.returns.tolist()


def test_the_mixture_player_plays_consistent_words_with_its_probability():
    rules = WordleRules(word_list=ALIKE)
    consistent = np.zeros((20_000, len(ALIKE)), dtype=bool)
    consistent[:, [2, 5]] = True
    guesses = MixturePlayer(rules, 0, p=0.25).choose(consistent, 6)
    share = np.bincount(guesses, minlength=len(ALIKE)) / len(guesses)
    expected = 0.75 / len(ALIKE) + np.where(consistent[0], 0.25 / 2, 0)
    np.testing.assert_allclose(share, expected, atol=5 * np.sqrt(0.2 * 0.8 / 20_000))
    with pytest.raises(ValueError, match="p must"):
        MixturePlayer(rules, p=1.5)


def test_an_invalid_guess_tells_a_player_nothing():
    rules = WordleRules(word_list=ALIKE)
    player = InformationGainPlayer(rules)
    assert player.act([START + "z z z z z\n\n"]) == player.act([START])


@pytest.mark.skipif(not LMRL_WORDS.exists(), reason="LMRL-Gym's word list is not here")
def test_levels_on_the_words_of_lmrl_gym():
    rules = WordleRules("lmrl", LMRL_WORDS)
    assert len(rules.words) == 431
    secrets = np.arange(431)
    greedy = play_games(rules, InformationGainPlayer(rules), secrets)
    assert greedy.returns.mean() == pytest.approx(-1.94, abs=0.01)
    consistent = play_games(rules, ConsistentPlayer(rules), np.tile(secrets, 50))
    assert consistent.returns.mean() == pytest.approx(-2.37, abs=0.03)
    mixture = play_games(rules, MixturePlayer(rules, 0), np.tile(secrets, 50))
    assert mixture.returns.mean() == pytest.approx(-4.10, abs=0.05)
    assert mixture.returns.std() == pytest.approx(1.58, abs=0.03)
    assert mixture.success.mean() == pytest.approx(0.704, abs=0.015)
    assert mixture.lengths.mean() == pytest.approx(4.81, abs=0.04)


# Recorded games


def test_recorded_games_follow_the_rules():
    dataset = envs.generate("wordle", 300, seed=5, rules="standard", word_list=ALIKE, p=0.5)
    assert len(dataset) == 300
    env = envs.make("wordle", rules="standard", word_list=ALIKE)
    for game in dataset:
        assert game["done"]
        assert game["is_action"] == [i % 2 == 1 for i in range(len(game["text"]))]
        outcome = []
        for secret in ALIKE:  # a game must be that of some secret
            text, rewards = [env.reset(options={"secret": secret})[0]], [0.0]
            for action in game["text"][1::2]:
                observation, reward, terminated, _, _ = env.step(action)
                text += [action, observation]
                rewards += [reward, 0.0]
                if terminated:
                    break
            outcome.append((text, rewards, terminated))
        assert (game["text"], game["reward"], True) in outcome


@pytest.mark.parametrize("policy", PLAYERS)
def test_every_player_records_games(policy):
    dataset = envs.generate("wordle", 5, seed=0, policy=policy, word_list=ALIKE, format="words")
    assert dataset["text"][0][0] == START


def test_a_folder_of_other_games_is_refused(tmp_path):
    envs.generate("wordle", 5, 0, word_list=ALIKE, path=tmp_path / "games")
    with pytest.raises(ValueError, match="seed=0, not 1"):
        envs.generate("wordle", 5, 1, word_list=ALIKE, path=tmp_path / "games")
    with pytest.raises(ValueError, match="words="):
        envs.generate("wordle", 5, 0, word_list=ALIKE[1:], path=tmp_path / "games")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.jsonl").write_text(json.dumps({"sequence": []}))
    with pytest.raises(ValueError, match="another origin"):
        envs.generate("wordle", 5, 0, word_list=ALIKE, path=tmp_path / "other")
