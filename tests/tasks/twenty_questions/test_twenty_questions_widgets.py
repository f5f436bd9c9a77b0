"""The pictures of Twenty Questions without a browser: what they show, and that it is so."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from explorers import controls, live_picture, pressed
from small_games import questions_policy, transcript

from qsft_lite.data import RewardScale
from qsft_lite.policy import QSFTPolicy
from qsft_lite.tasks.twenty_questions import widgets as tw
from qsft_lite.tasks.twenty_questions.rules import NO, START, YES
from qsft_lite.viz import explorers as widgets
from qsft_lite.viz.plots import method_color


@pytest.fixture(scope="module", params=["paired", "ratio"])
def game(request):
    """Rules of 24 objects and a policy of random weights, values unlike pi."""
    policy, rules = questions_policy(request.param)
    return rules, policy


def texts_of(axes):
    return [text.get_text() for text in axes.texts]


def test_bits_are_the_entropy_of_the_answer(game):
    rules, _ = game
    everything = np.ones(len(rules.names), dtype=bool)
    bits = tw.expected_bits(rules, everything)
    for question, row in enumerate(rules.table):
        shares = np.array([row.mean(), 1 - row.mean()])
        shares = shares[shares > 0]
        assert bits[question] == pytest.approx(-(shares * np.log2(shares)).sum())
    assert bits[rules.guesses.start] == pytest.approx(0.2499, abs=1e-3)  # 1 of 24
    one = np.arange(len(rules.names)) == 3
    both = tw.expected_bits(rules, np.stack([everything, one]))
    np.testing.assert_array_equal(both[0], bits)
    assert not both[1].any()


def test_the_table_is_the_models_own(game):
    rules, policy = game
    history = "".join(transcript(rules, rules.names[2], [0, 5]))
    table = tw.question_table(policy, rules, history)
    assert sorted(table["question"]) == list(range(len(rules.table)))
    assert (table["pi_hat"].diff().dropna() <= 0).all()
    assert table["guess"].sum() == len(rules.names)
    tokenizer = policy.tokenizer
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(history).input_ids]])
    with torch.no_grad():
        logits = [m(ids).logits[0, -1].double() for m in (policy.behavior, policy.q_model)]
    pi, p = (each.softmax(-1) for each in logits)
    paired = 1 / (1 + (logits[0] - logits[1]).exp())  # the prior is 1/2
    q = paired if policy.score == "paired" else (p / pi).clamp(max=1)
    for row in table.head(5).itertuples():
        token = tokenizer.convert_tokens_to_ids(rules.question_texts[row.question])
        assert row.pi == pytest.approx(float(pi[token]), rel=1e-4)
        assert row.Q == pytest.approx(float(q[token]), rel=1e-3)
        assert row.text + "\n" == rules.question_texts[row.question]


def test_the_set_shrinks_with_the_answers(game):
    rules, policy = game
    secret = rules.names[2]
    texts = transcript(rules, secret, [0, 1, 5])
    for asked in range(4):
        figure = tw.draw_game(policy, rules, texts, asked)
        left, middle, right = figure.axes
        turns = rules.read_history("".join(texts))[:asked]
        consistent = rules.consistent(turns)
        count = int(consistent.sum())
        assert figure.get_suptitle().endswith(f"{count} of 24 objects left")
        bold = [text.get_text() for text in middle.texts if text.get_weight() == "bold"]
        assert bold == [name for name, there in zip(rules.names, consistent, strict=True) if there]
        assert secret in bold
        assert len(left.patches) == asked
        if asked:
            assert texts_of(left)[-1] == str(count)
        assert len(right.patches) == tw.BARS
    assert middle.texts[2].get_color() == method_color("q_sft")


def test_the_values_are_those_of_the_policy(game):
    rules, policy = game
    texts = transcript(rules, rules.names[4], [0, 7, 3])
    values = policy.values([(text, row % 2 == 1) for row, text in enumerate(texts)])
    column, name = {"paired": ("Q", "Q of"), "ratio": ("ratio", "Q = p/π of")}[policy.score]
    wanted = [f"{min(value, 1):.2f}" for value in values[column][values["is_action"]]]
    left = tw.draw_game(policy, rules, texts).axes[0]
    assert texts_of(left)[::4] == wanted
    assert left.get_title().startswith(f"{name} each question;")


@pytest.mark.parametrize("score", ["paired", "ratio"])
def test_values_are_told_in_the_tasks_own_units_where_they_are_known(score):
    policy, rules = questions_policy(score, scale=RewardScale(-20.0, 0.0))
    plain, _ = questions_policy(score)
    texts = transcript(rules, rules.names[4], [0, 7, 3])
    values = plain.values([(text, row % 2 == 1) for row, text in enumerate(texts)])
    q = values["Q" if score == "paired" else "ratio"][values["is_action"]].clip(upper=1)
    left, _, right = tw.draw_game(policy, rules, texts).axes
    assert texts_of(left)[::4] == [f"{20 * value - 20:.2f}" for value in q]
    assert "in the task's units" in left.get_title()
    best = tw.question_table(plain, rules, "".join(texts)).iloc[0]
    assert f"Q {20 * best['Q'] - 20:.2f}," in texts_of(right)[1]


def test_the_end_is_said(game):
    rules, policy = game
    guess = rules.guesses.start + 2
    won = tw.draw_game(policy, rules, transcript(rules, rules.names[2], [0, guess]))
    assert won.axes[2].get_title() == "found"
    lost = tw.draw_game(policy, rules, transcript(rules, rules.names[2], [0] * 20))
    assert lost.axes[2].get_title() == "not found"


def test_the_static_picture_is_the_live_one_at_rest(game, shown, capfd):
    rules, policy = game
    short = transcript(rules, rules.names[2], [0])
    long = transcript(rules, rules.names[3], [0, 1, 2, 3])
    tw.game_explorer(policy, rules, [{"text": long}, {"text": short}], asked=2)
    static, widget = shown
    assert static.alt
    assert static.data == live_picture(widget).value
    assert static.data == widgets._png(tw.draw_game(policy, rules, long, 2))
    controls(widget)["turn"].value = 4
    assert live_picture(widget).value == widgets._png(tw.draw_game(policy, rules, long, 4))
    controls(widget)["game"].value = 2  # ends after one question
    assert live_picture(widget).value == widgets._png(tw.draw_game(policy, rules, short, 1))
    assert plt.get_fignums() == []
    assert capfd.readouterr() == ("", "")


def test_bad_input_is_named(game, shown):
    rules, policy = game
    texts = transcript(rules, rules.names[2], [0])
    with pytest.raises(ValueError, match="has 1 questions, got 2 asked"):
        tw.draw_game(policy, rules, texts, 2)
    with pytest.raises(ValueError, match="at least one game"):
        tw.game_explorer(policy, rules, [])
    with pytest.raises(ValueError, match="turn must be one of 0, 1, got 3"):
        tw.game_explorer(policy, rules, [{"text": texts}])
    assert shown == []


# One answers, or asks, oneself


@pytest.fixture
def drawn(monkeypatch):
    """Of each picture from now on: its transcript and the note below."""
    found = []
    draw = tw.draw_game

    def noted(policy, rules, texts, asked=None, *, note="", **options):
        found.append((list(texts), note))
        return draw(policy, rules, texts, asked, note=note, **options)

    monkeypatch.setattr(tw, "draw_game", noted)
    return found


@pytest.fixture
def asked_networks(monkeypatch):
    """Counts what the networks are asked."""
    calls = []
    for name in ("candidates", "values"):

        def counted(function):
            return lambda *given, **options: (calls.append(1), function(*given, **options))[1]

        monkeypatch.setattr(QSFTPolicy, name, counted(getattr(QSFTPolicy, name)))
    return calls


def test_one_answers_the_policys_questions(game, shown, drawn, asked_networks, capfd):
    rules, policy = game
    tw.answer_explorer(policy, rules)
    static, widget = shown
    assert static.data == live_picture(widget).value and len(static.alt) > 60
    first = tw.question_table(policy, rules, START)["text"][0]
    assert drawn[-1] == ([START], f"Question 1: {first} Answer yes or no.")
    buttons = pressed(widget)
    asked_networks.clear()
    buttons["no"].value = True
    assert len(asked_networks) == 2  # the next question and the values; the answered one is known
    assert drawn[-1][0] == [START, first + "\n", NO]
    second = tw.question_table(policy, rules, "".join(drawn[-1][0]))["text"][0]
    assert drawn[-1][1] == f"Question 2: {second} Answer yes or no."
    buttons["take back"].value = True
    assert live_picture(widget).value == static.data
    buttons["take back"].value = True  # there is nothing more
    assert live_picture(widget).value == static.data
    assert not any(button.value for button in buttons.values())
    for _ in range(25):
        buttons["no"].value = True
    texts, note = drawn[-1]
    assert len(texts) == 41 and note.startswith("All 20 questions are asked: the game is over.")
    buttons["yes"].value = True  # nothing is asked any more
    assert drawn[-1] == (texts, note)
    buttons["start again"].value = True
    assert live_picture(widget).value == static.data
    assert plt.get_fignums() == [] and capfd.readouterr() == ("", "")


def test_yes_to_a_guess_ends_the_game(game, shown, drawn, monkeypatch):
    rules, policy = game
    table = tw.question_table

    def guesses_first(policy, rules, history):
        found = table(policy, rules, history)
        return found.sort_values("guess", ascending=False, kind="stable", ignore_index=True)

    monkeypatch.setattr(tw, "question_table", guesses_first)
    tw.answer_explorer(policy, rules)
    pressed(shown[1])["yes"].value = True
    assert drawn[-1][1] == "Found with 1 question."
    pressed(shown[1])["no"].value = True
    assert len(drawn[-1][0]) == 3


def test_one_asks_oneself(game, shown, drawn, asked_networks, capfd):
    rules, policy = game
    tw.ask_explorer(policy, rules)
    static, widget = shown
    assert static.data == live_picture(widget).value and len(static.alt) > 60
    question, typed = controls(widget)["question"], pressed(widget)["or type it"]
    assert len(question.options) == 1 + len(rules.table)
    table = tw.question_table(policy, rules, START)
    worst, best = table.iloc[-1], table.iloc[0]
    asked_networks.clear()
    question.value = worst["text"]
    assert len(asked_networks) == 2 and question.value == tw.CHOOSE
    secret = 7 % len(rules.names)
    answer = YES if rules.table[worst["question"], secret] else NO
    texts, note = drawn[-1]
    assert texts == [START, worst["text"] + "\n", answer]
    assert note.startswith(f"{worst['text']} Q {worst['Q']:.3f}, place ")
    assert f"The policy would have asked: {best['text']} Q {best['Q']:.3f}" in note
    after = live_picture(widget).value
    for bad in ("?", "$x$", "\\", "Is it blue and green and also a horse", "x" * 400):
        typed.value = bad
        assert "is not understood" in drawn[-1][1] and drawn[-1][0] == texts
        assert typed.value == ""
    pressed(widget)["take back"].value = True
    assert live_picture(widget).value == static.data
    typed.value = best["text"].upper()
    assert "The policy would have asked the same." in drawn[-1][1]
    assert live_picture(widget).value != after
    question.value = f"Is it {rules.things[secret].guess}?"
    assert drawn[-1][1].endswith("Found with 2 questions.")
    question.value = worst["text"]
    assert len(drawn[-1][0]) == 5  # the game is over
    controls(widget)["game"].value = 2
    assert drawn[-1] == ([START], "")
    assert plt.get_fignums() == [] and capfd.readouterr() == ("", "")


def test_every_hidden_object_is_another_one(game, shown):
    rules, policy = game
    assert len({7 * number % len(rules.names) for number in range(len(rules.names))}) == 24
    with pytest.raises(ValueError, match="game must be one of 1, 2, .*, got 25"):
        tw.ask_explorer(policy, rules, game=25)
    assert shown == []


def test_answers_that_fit_no_object_are_said_to_be_such(game, shown, drawn, monkeypatch):
    rules, policy = game
    table = tw.question_table

    def contradicts_itself(policy, rules, history):
        """Asks one thing again and again."""
        return table(policy, rules, history).sort_values("question", ignore_index=True)

    monkeypatch.setattr(tw, "question_table", contradicts_itself)
    tw.answer_explorer(policy, rules)
    buttons = pressed(shown[1])
    buttons["yes"].value = True
    fitting = drawn[-1][1]
    buttons["no"].value = True
    assert "No object fits all answers" not in fitting
    assert drawn[-1][1] == fitting.replace("Question 2", "Question 3") + (
        " (No object fits all answers; those in bold fit most of them.)"
    )
