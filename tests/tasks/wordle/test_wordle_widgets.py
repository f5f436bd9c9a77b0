"""Wordle's pictures and explorers without a browser: what they draw, and that it is so."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from explorers import controls, live_picture, pressed
from matplotlib.colors import to_rgba
from small_games import WORDS, wordle_policy

from qsft_lite.data import RewardScale
from qsft_lite.envs import make
from qsft_lite.policy import QSFTPolicy
from qsft_lite.tasks.wordle import widgets as ww
from qsft_lite.viz import explorers as widgets
from qsft_lite.viz.plots import VALUE_COLORS


@pytest.fixture(scope="module", params=["words", "letters", "clues"])
def game(request):
    policy, rules = wordle_policy(request.param)
    return rules, policy


@pytest.fixture(scope="module")
def word_game():
    policy, rules = wordle_policy()
    return rules, policy


@pytest.fixture(scope="module", params=["paired", "ratio"])
def either_form(request):
    """A paired policy, and one of the forms before it, with one dummy."""
    policy, rules = wordle_policy("words", request.param)
    return rules, policy


def texts_of(axes):
    return [text.get_text() for text in axes.texts]


def segments_of(rules, secret, guesses):
    lines = ww.history_of(rules, secret, guesses).splitlines(keepends=True)
    return [(line, number % 2 == 1) for number, line in enumerate(lines)]


# The game


def test_the_history_is_the_transcript_of_the_environment(game):
    rules, _ = game
    env = make("wordle", word_list=WORDS, format=rules.format)
    history, _ = env.reset(options={"secret": "where"})
    for guess in ("chair", "there", "where"):
        answer, *_ = env.step(guess)
        history += rules.guess_texts[WORDS.index(guess)] + answer
    assert ww.history_of(rules, "where", ["chair", "there", "where"]) == history


def test_candidates_are_the_models_own_probabilities(either_form):
    rules, policy = either_form
    history = ww.history_of(rules, "where", ["chair"])
    table = ww.candidate_table(policy, rules, history)
    assert sorted(table["word"]) == sorted(WORDS)
    assert (table["pi_hat"].diff().dropna() <= 0).all()

    tokenizer = policy.tokenizer
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(history).input_ids]])
    with torch.no_grad():
        logits = [m(ids).logits[0, -1].double() for m in (policy.behavior, policy.q_model)]
    pi, p = (each.softmax(-1) for each in logits)
    paired = 1 / (1 + (logits[0] - logits[1]).exp())  # the prior is 1/2
    q = paired if policy.score == "paired" else (p / pi).clamp(max=1)
    pi_hat = pi * (5.0 * q).exp()
    pi_hat /= pi_hat.sum()
    for word, *found in table[["word", "pi", "Q", "pi_hat"]].itertuples(index=False):
        token = tokenizer.convert_tokens_to_ids(word + "\n")
        assert found == pytest.approx([float(x[token]) for x in (pi, q, pi_hat)], rel=1e-4)


def test_candidates_know_what_is_consistent(game):
    rules, policy = game
    table = ww.candidate_table(policy, rules, ww.history_of(rules, "where", ["there"]))
    # "there" answers byggg for "where", whose h, e, r, e are where they are there.
    fits = {
        word
        for word in WORDS
        if ww.history_of(rules, word, ["there"]).endswith(
            ww.history_of(rules, "where", ["there"])[len("Wordle:\n") :]
        )
    }
    assert set(table["word"][table["consistent"]]) == fits == {"where"}


def test_the_policy_goes_on_from_given_guesses_to_the_end(game):
    rules, policy = game
    for secret in WORDS:
        guesses = ww.policy_guesses(policy, rules, secret, ["about"])
        assert guesses[0] == "about"
        assert guesses[-1] == secret or len(guesses) == 6
        assert secret not in guesses[:-1]
        if len(guesses) > 1:
            history = ww.history_of(rules, secret, ["about"])
            table = ww.candidate_table(policy, rules, history)
            assert guesses[1] == table["word"][table["pi_hat"].argmax()]


def test_impossible_games_are_named(game):
    rules, policy = game
    with pytest.raises(ValueError, match="'hairy' is not in the word list; close to it: chair"):
        ww.history_of(rules, "where", ["hairy"])
    with pytest.raises(ValueError, match="'hairy' is not in the word list"):
        ww.draw_candidates(policy, rules, "hairy", [])
    with pytest.raises(ValueError, match="a game has 6 guesses, got 7"):
        ww.draw_candidates(policy, rules, "where", ["chair"] * 7)


# The candidates' picture


def test_the_bars_are_the_table(game):
    rules, policy = game
    figure = ww.draw_candidates(policy, rules, "where", ["chair"])
    board, *bars = figure.axes
    table = ww.candidate_table(policy, rules, ww.history_of(rules, "where", ["chair"]))
    for axes, column in zip(bars, ("pi", "Q", "pi_hat"), strict=True):
        assert [patch.get_width() for patch in axes.patches] == pytest.approx(list(table[column]))
    labels = [label.get_text() for label in bars[0].get_yticklabels()]
    assert [label.removesuffix(" *") for label in labels] == list(table["word"])
    assert [label.endswith("*") for label in labels] == list(table["consistent"])
    count = table["consistent"].sum()
    assert f"Guess 2: {count} of 6 words" in figure.get_suptitle()


def test_the_value_has_its_name(either_form):
    rules, policy = either_form
    bars = ww.draw_candidates(policy, rules, "where", []).axes[2]
    assert bars.get_title() == {"paired": "Q", "ratio": "Q = p/π"}[policy.score]


def test_bars_tell_values_in_the_tasks_own_units_where_they_are_known():
    policy, rules = wordle_policy(scale=RewardScale(-6.0, -1.0))
    plain, _ = wordle_policy()
    q = ww.candidate_table(plain, rules, ww.history_of(rules, "where", []))["Q"]
    bars = ww.draw_candidates(policy, rules, "where", []).axes[2]
    assert [patch.get_width() for patch in bars.patches] == pytest.approx(list(q))
    assert [text.strip() for text in texts_of(bars)] == [f"{5 * value - 6:.2f}" for value in q]
    assert bars.get_title() == "Q in the task's units"


def test_the_board_shows_letters_and_colors(game):
    rules, policy = game
    board = ww.draw_candidates(policy, rules, "where", ["there"]).axes[0]
    assert "".join(texts_of(board)) == "THERE"
    first_row = [patch.get_facecolor() for patch in board.patches[:5]]
    assert first_row == [to_rgba(ww.TILES[color]) for color in "bgggg"]
    assert {patch.get_facecolor() for patch in board.patches[5:]} == {to_rgba("white")}


def test_a_rivals_letters_stay_hidden_until_the_game_is_over(game):
    rules, policy = game
    under_way = ww.draw_candidates(policy, rules, "where", ["chair"], against=True)
    assert "".join(texts_of(under_way.axes[1])) == ""
    over = ww.draw_candidates(policy, rules, "where", ["where"], against=True)
    rival = "".join(ww.policy_guesses(policy, rules, "where")).upper()
    assert "".join(texts_of(over.axes[1])) == rival
    assert over.get_suptitle() == "Found: the word was where"
    lost = ww.draw_candidates(policy, rules, "where", ["chair"] * 6)
    assert lost.get_suptitle() == "Not found: the word was where"


# The heat map


@pytest.mark.parametrize("format", ["words", "letters"])
@pytest.mark.parametrize(
    ("score", "quantity"),
    [("paired", q) for q in ("Q", "pi", "V")] + [("ratio", q) for q in ("ratio", "p", "pi", "V")],
)
def test_action_tokens_are_colored_by_their_value(format, score, quantity):
    policy, rules = wordle_policy(format, score)
    segments = segments_of(rules, "where", ["chair", "there"])
    axes = ww.draw_token_values(policy, segments, quantity=quantity).axes[0]
    values = policy.values(segments)
    assert len(axes.patches) == len(values)
    for patch, (_, token) in zip(axes.patches, values.iterrows(), strict=True):
        wanted = VALUE_COLORS(min(token[quantity], 1.0)) if token["is_action"] else to_rgba("white")
        assert patch.get_facecolor() == pytest.approx(wanted)
    numbers = [f"{value:.2f}" for value in values[quantity][values["is_action"]]]
    assert [text.split()[-1] for text in texts_of(axes) if "." in text] == numbers


def test_the_value_is_shown_first_whatever_the_form(either_form):
    rules, policy = either_form
    segments = segments_of(rules, "where", ["chair", "there"])
    value = {"paired": "Q", "ratio": "ratio"}[policy.score]
    figure = ww.draw_token_values(policy, segments)
    assert widgets._png(figure) == widgets._png(
        ww.draw_token_values(policy, segments, quantity=value)
    )
    assert list(ww.quantities(policy))[0] == value
    assert set(ww.quantities(policy)) == set(policy.values(segments)) - {"token", "is_action"}


@pytest.mark.parametrize("quantity", ["Q", "V"])
def test_tokens_are_told_in_the_tasks_own_units_where_they_are_known(quantity):
    policy, rules = wordle_policy(scale=RewardScale(-6.0, -1.0))
    plain, _ = wordle_policy()
    segments = segments_of(rules, "where", ["chair", "there"])
    values = plain.values(segments)
    axes, bar = ww.draw_token_values(policy, segments, quantity=quantity).axes
    of_actions = values[quantity][values["is_action"]]
    numbers = [text.split()[-1] for text in texts_of(axes) if "." in text]
    assert numbers == [f"{5 * value - 6:.2f}" for value in of_actions]
    colors = [axes.patches[place].get_facecolor() for place in of_actions.index]
    assert np.allclose(colors, [VALUE_COLORS(value) for value in of_actions], atol=0.01)
    assert bar.get_ylabel() == f"{quantity} in the task's units"
    assert bar.get_ylim() == (-6, -1)


def test_a_line_of_the_transcript_is_a_row(game):
    rules, policy = game
    axes = ww.draw_token_values(policy, segments_of(rules, "where", ["chair"])).axes[0]
    assert {patch.get_y() for patch in axes.patches} == {-0.5, 0.5, 1.5}


def test_unknown_quantities_are_named(either_form):
    rules, policy = either_form
    segments = segments_of(rules, "where", ["chair"])
    known = {"paired": "Q, pi, V", "ratio": "ratio, pi, p, V"}[policy.score]
    with pytest.raises(ValueError, match=f"quantity must be one of {known}, got 'q'"):
        ww.draw_token_values(policy, segments, quantity="q")
    no_dummy = QSFTPolicy(policy.behavior, policy.q_model, policy.tokenizer, 1.0)
    with pytest.raises(ValueError, match="quantity must be one of ratio, pi, p, got 'V'"):
        ww.draw_token_values(no_dummy, segments, quantity="V")


# The explorers


def test_the_static_picture_is_the_live_one_at_rest(word_game, shown, capfd):
    rules, policy = word_game
    transcript = {"text": ["Wordle:\n", "chair\n", "bybby\n"], "is_action": [False, True, False]}
    ww.play_explorer(policy, rules)
    ww.token_explorer(policy, [transcript])
    for static, widget in (shown[:2], shown[2:]):
        assert static.data == live_picture(widget).value
        assert static.alt
    segments = list(zip(transcript["text"], transcript["is_action"], strict=True))
    assert shown[2].data == widgets._png(ww.draw_token_values(policy, segments))
    assert plt.get_fignums() == []
    assert capfd.readouterr() == ("", "")


def test_a_game_is_played_by_the_controls(word_game, shown):
    rules, policy = word_game
    ww.play_explorer(policy, rules, game=2)
    widget = shown[1]
    secret = WORDS[14 % 6]
    by_name = controls(widget)
    picture = live_picture(widget)

    def expected(guesses, **options):
        if guesses:
            options["note"] = ww._thought_of(policy, rules, secret, guesses)
        return widgets._png(ww.draw_candidates(policy, rules, secret, guesses, **options))

    assert picture.value == expected([])
    by_name["guess 2"].value = "about"  # waits for the first guess
    assert picture.value == expected([])
    by_name["guess 1"].value = "chair"
    assert picture.value == expected(["chair", "about"])
    by_name["guess 2"].value = ww.POLICYS_CHOICE
    own = ww.policy_guesses(policy, rules, secret, ["chair"])[1]
    assert picture.value == expected(["chair", own])
    by_name["policy's game"].value = True
    assert picture.value == expected(["chair", own], against=True)
    by_name["guess 1"].value = secret
    assert picture.value == expected([secret], against=True)


def test_a_game_can_begin_after_guesses_of_the_policy(word_game, shown):
    rules, policy = word_game
    ww.play_explorer(policy, rules, game=2, begun=1)
    secret = WORDS[14 % 6]
    own = ww.policy_guesses(policy, rules, secret)[:1]
    note = ww._thought_of(policy, rules, secret, own)
    assert shown[0].data == widgets._png(ww.draw_candidates(policy, rules, secret, own, note=note))
    assert controls(shown[1])["guess 1"].value == ww.POLICYS_CHOICE
    assert controls(shown[1])["guess 2"].value == ww.NOT_YET


def test_every_game_has_its_own_secret(word_game, shown, monkeypatch):
    rules, policy = word_game
    secrets = []
    draw = ww.draw_candidates

    def noted(policy, rules, secret, guesses, **options):
        secrets.append(secret)
        return draw(policy, rules, secret, guesses, **options)

    monkeypatch.setattr(ww, "draw_candidates", noted)
    ww.play_explorer(policy, rules)
    for number in range(2, 7):
        controls(shown[1])["game"].value = number
    assert sorted(secrets) == sorted(WORDS)


def test_the_transcript_and_the_quantity_can_be_chosen(either_form, shown):
    rules, policy = either_form
    games = [segments_of(rules, "where", guesses) for guesses in (["chair"], ["there", "about"])]
    rows = [
        {"text": [text for text, _ in game], "is_action": [a for _, a in game]} for game in games
    ]
    ww.token_explorer(policy, rows)
    widget = shown[1]
    controls(widget)["transcript"].value = 2
    controls(widget)["color"].value = "V"
    expected = widgets._png(ww.draw_token_values(policy, games[1], quantity="V"))
    assert live_picture(widget).value == expected
    assert not np.array_equal(shown[0].data, expected)


def test_bad_start_values_are_named(word_game, shown):
    rules, policy = word_game
    with pytest.raises(ValueError, match="game must be one of 1, 2, .*, got 7"):
        ww.play_explorer(policy, rules, game=7)
    with pytest.raises(ValueError, match="at least one transcript"):
        ww.token_explorer(policy, [])
    with pytest.raises(ValueError, match="quantity must be one of Q, pi, V, got 'ratio'"):
        ww.token_explorer(policy, [{"text": [], "is_action": []}], quantity="ratio")
    assert shown == []


@pytest.fixture
def notes(monkeypatch):
    """What stands below each picture from now on."""
    found = []

    def noted(draw):
        def drawn(*given, note="", **options):
            found.append(note)
            return draw(*given, note=note, **options)

        return drawn

    for name in ("draw_candidates", "draw_token_values"):
        monkeypatch.setattr(ww, name, noted(getattr(ww, name)))
    return found


def test_the_policys_opinion_of_ones_guess_is_told(either_form, shown, notes):
    rules, policy = either_form
    ww.play_explorer(policy, rules)
    guess = controls(shown[1])["guess 1"]
    table = ww.candidate_table(policy, rules, ww.START)
    best = table["word"][0]
    guess.value = best
    own = float(table["Q"][0])
    place = 1 + int((table["Q"] > own).sum())
    assert notes[-1] == (
        f"Guess 1, {best}: Q {own:.3f}, place {place} of 6. The policy would have guessed the same."
    )
    other = table["word"][3]
    guess.value = other
    assert notes[-1].startswith(f"Guess 1, {other}: Q {table['Q'][3]:.3f}, place ")
    assert notes[-1].endswith(f"The policy would have guessed {best}: Q {own:.3f}.")


def test_a_redraw_asks_the_networks_no_more_than_it_must(word_game, shown, monkeypatch):
    rules, policy = word_game
    ww.play_explorer(policy, rules, game=1)
    asked = []
    candidates = QSFTPolicy.candidates
    monkeypatch.setattr(
        QSFTPolicy, "candidates", lambda *given: (asked.append(1), candidates(*given))[1]
    )
    secret = WORDS[7 % 6]
    controls(shown[1])["guess 1"].value = next(word for word in WORDS if word != secret)
    assert len(asked) == 2  # for the last guess, and for the next one
    controls(shown[1])["guess 1"].value = secret
    assert len(asked) == 3  # the game is over: there is no next one


def test_a_guess_can_be_typed(word_game, shown, notes):
    rules, policy = word_game
    ww.play_explorer(policy, rules, game=2)
    widget = shown[1]
    typed = pressed(widget)["or type the next"]
    for bad in ("crate", "", "  ", "a b", "$x$", "\\", "where about", "1" * 300):
        typed.value = bad
        assert typed.value == "" or not bad.strip()
        if bad.strip():
            assert "is not among the 6 words of this game" in notes[-1], bad
    assert controls(widget)["guess 1"].value == ww.NOT_YET
    typed.value = " Chair "
    typed.value = "about"
    assert [controls(widget)[f"guess {n}"].value for n in (1, 2, 3)] == [
        "chair",
        "about",
        ww.NOT_YET,
    ]
    assert notes[-1].startswith("Guess 2, about: Q ")
    for _ in range(5):
        typed.value = "about"
    assert notes[-1] == f"All 6 guesses are made: set one of them back to {ww.NOT_YET}."


# A game of one's own


@pytest.mark.parametrize(
    ("secret", "guesses", "count", "problem"),
    [
        ("where", "chair, there", 2, ""),
        (" Where ", " CHAIR ;there,", 2, ""),
        ("", "chair bgbby", 1, ""),
        ("", "chair b g b b y, there bbbbb", 1, "No word of the list gives bbbbb to there"),
        ("", "", 0, ""),
        ("where", ", ,", 0, ""),
        ("where", "chair bgbby", 1, ""),
        ("where", "chair ggggg", 0, "With the secret where, chair gets bgbby, not ggggg."),
        ("where", "chair xxxxx", 0, "'xxxxx' is no feedback"),
        ("where", "chair byb", 0, "'byb' is no feedback"),
        ("", "chair, there", 0, "Type a secret, or the feedback behind the guess: chair bygbb."),
        ("where", "chair, wherr", 1, "'wherr' is not among the 6 words .*; close to it: where"),
        ("whale", "chair", 0, "'whale' is not among the 6 words"),
        ("zzzzz", "chair", 0, "some of them: about, chair, there."),
        ("where", "where, chair", 1, "The game is over"),
        ("where", "chair," * 7, 6, "The game is over"),
        ("$x$", "$\\frac$", 0, "not among"),
    ],
)
def test_ones_own_game_is_read_as_far_as_it_is_right(game, secret, guesses, count, problem):
    rules, policy = game
    turns, found = ww.read_own_game(rules, secret, guesses)
    assert len(turns) == count
    assert re.search(problem, found) if problem else found == ""
    if count and "where" in secret.lower():
        history = ww.history_of(rules, "where", [rules.words[guess] for guess, _ in turns])
        assert rules.read_history(history) == turns


def test_ones_own_transcript_has_its_values(either_form, shown, notes, capfd):
    rules, policy = either_form
    ww.own_transcript_explorer(policy, rules)
    static, widget = shown
    assert static.data == live_picture(widget).value and len(static.alt) > 60
    boxes = pressed(widget)
    boxes["secret"].value = "where"
    boxes["guesses"].value = "chair, there"
    segments = segments_of(rules, "where", ["chair", "there"])
    assert live_picture(widget).value == widgets._png(ww.draw_token_values(policy, segments))
    right = live_picture(widget).value
    boxes["guesses"].value = "chair, there, nothing"
    assert "'nothing' is not among" in notes[-1] and live_picture(widget).value != right
    boxes["guesses"].value = "chair, there"
    boxes["secret"].value = ""
    assert notes[-1].startswith("Type a secret")
    boxes["guesses"].value = "chair bgbby"
    assert notes[-1] == ""
    controls(widget)["color"].value = "V"
    chair = segments_of(rules, "where", ["chair"])
    expected = widgets._png(ww.draw_token_values(policy, chair, quantity="V"))
    assert live_picture(widget).value == expected
    for bad in ("$$", "\\", ",,,,", "chair " * 9, "ÄÖÜ", "\n"):
        boxes["guesses"].value = bad
        boxes["secret"].value = bad
    assert plt.get_fignums() == [] and capfd.readouterr() == ("", "")
    with pytest.raises(ValueError, match="quantity must be one of"):
        ww.own_transcript_explorer(policy, rules, quantity="q")
