"""The pages of the shop without a browser: what they show, and that it is so."""

import copy

import matplotlib.pyplot as plt
import pytest
from explorers import controls, live_picture
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from small_games import agent_policy

from qsft_lite.baselines import TrainedMethod
from qsft_lite.envs import make
from qsft_lite.models import character_tokenizer
from qsft_lite.tasks import agent_widgets
from qsft_lite.tasks.webshop import widgets as ww
from qsft_lite.tasks.webshop.players import CarefulPlayer
from qsft_lite.tasks.webshop.study import PROFILES, WebShopTask
from qsft_lite.viz import explorers as widgets
from qsft_lite.viz.plots import HIGHLIGHT, VALUE_COLORS

START = {"goal": 7}


@pytest.fixture(scope="module")
def env():
    return make("webshop", format="short", products=300)


@pytest.fixture(scope="module")
def policy(env):
    """Random weights, values unlike pi."""
    return agent_policy(env)


def play(env, actions, start=START):
    """The texts of a visit, and the infos, one a page."""
    own = copy.copy(env)
    text, info = own.reset(options=start)
    texts, infos = [text], [info]
    for action in actions:
        text, reward, *_, info = own.step(action)
        texts += [f"{action}\n", text]
        infos.append({**info, "reward": reward})
    return texts, infos


@pytest.fixture(scope="module")
def texts(env):
    """A visit with all kinds of pages: an option chosen, features read, and a purchase."""
    words = env.reset(options=START)[0].split(" under $")[0]
    found, infos = play(env, [f"search {words}", "next", "prev", "#1", "features", "prev"])
    [option, *_] = [
        click
        for click in infos[-1]["available_actions"]["clickables"]
        if click in sum(product_of(env, found)["options"].values(), [])
    ]
    actions = [text.strip() for text in found[1::2]]
    return play(env, [*actions, option, "buy"])[0]


def product_of(env, texts):
    """The product that a first page of results has on its first place."""
    position = env.catalog.results(texts[1].strip().removeprefix("search "))[0]
    return env.catalog.products[position]


def written_on(axes):
    return [text.get_text() for text in axes.texts]


def buttons_of(axes):
    """Of each button its label with the number, its color and its rim."""
    patches = list(axes.patches)
    inside = {}
    for text in axes.texts:
        for patch in patches:
            (x, y), wide, high = patch.get_xy(), patch.get_width(), patch.get_height()
            center = text.get_position()
            if x < center[0] < x + wide and y < center[1] < y + high:
                inside[text.get_text()] = patch.get_facecolor(), patch.get_edgecolor()
    assert len(inside) == len(patches)
    return inside


def asked_of(monkeypatch):
    """What the policy is asked about, in order."""
    asked = []
    ask = agent_widgets.ask_actions
    monkeypatch.setattr(agent_widgets, "ask_actions", lambda *a: (asked.append(a[2]), ask(*a))[1])
    return asked


# The pages


def test_the_policy_is_asked_about_all_that_can_be_clicked(env, policy, texts, monkeypatch):
    """As many actions as clickables, and each of them means something."""
    asked = asked_of(monkeypatch)
    actions = [text.strip() for text in texts[1::2]]
    _, infos = play(env, actions)
    for turn in range(1, len(actions)):
        ww.draw_page(policy, env, START, texts, turn)
        found = [action.strip() for action in asked[-1]]
        clickables = infos[turn]["available_actions"]["clickables"]
        assert len(found) == len(set(found)) == len(clickables)
        assert actions[turn] in found
        for action in found:
            assert play(env, [*actions[:turn], action])[1][-1]["valid"], action


def test_searches_are_on_offer_at_the_start(env, policy, texts, monkeypatch):
    asked = asked_of(monkeypatch)
    figure = ww.draw_page(policy, env, START, texts, 0)
    found = [action.strip() for action in asked[-1]]
    instruction = texts[0].split(" under $")[0].strip()
    assert found[0] == f"search {instruction}"
    words = [action.removeprefix("search ") for action in found[1:3]]
    assert " ".join(words) == instruction
    assert texts[1].strip() in found  # the one that was taken
    assert all(action.startswith("search ") for action in found)
    labels = [label.rpartition("  ")[0] for label in buttons_of(figure.axes[0])]
    assert {label.removesuffix(" …") for label in labels} <= {
        one[: len(label.removesuffix(" …"))] for one in found for label in labels
    }


def test_what_the_policy_writes_is_a_search_on_offer(env, policy, texts, monkeypatch):
    asked = asked_of(monkeypatch)
    own = "search gel rose"
    monkeypatch.setattr(policy, "act", lambda histories: [f"{own}\n"] * len(histories))
    ww.draw_page(policy, env, START, texts, 0)
    assert f"{own}\n" in asked[-1]
    monkeypatch.setattr(policy, "act", lambda histories: ["gel\n"] * len(histories))
    ww.draw_page(policy, env, START, texts, 0)
    assert "gel\n" not in asked[-1]  # it means nothing


def test_asking_what_the_policy_writes_leaves_it_as_it_is(env, texts):
    one, other = agent_policy(env, seed=7), agent_policy(env, seed=7)
    first = one.act([texts[0]])
    ww.draw_page(one, env, START, texts, 0)
    assert other.act([texts[0]]) == first
    more = [texts[0] + first[0] + "invalid\n"]
    assert one.act(more) == other.act(more)


@pytest.mark.parametrize("turn", [1, 4, 7])
def test_a_click_has_the_color_of_its_value(env, policy, texts, turn, monkeypatch):
    asked = asked_of(monkeypatch)
    axes = ww.draw_page(policy, env, START, texts, turn).axes[0]
    found = policy.candidates("".join(texts[: 1 + 2 * turn]), asked[-1])
    buttons = buttons_of(axes)
    labels = {"back": "back to search", "prev": "< prev", "next": "next >", "buy": "buy now"}
    for action, value in zip(found["action"].str.strip(), found["Q"], strict=True):
        number = f"{value:.2f}"
        number = number if number == "1.00" else number.removeprefix("0")
        [label] = [one for one in buttons if one.startswith(f"{labels.get(action, action)}  ")]
        assert label.endswith(number)
        assert buttons[label][0] == pytest.approx(VALUE_COLORS(value), abs=0.02)
    assert len(buttons) == len(found)


def test_results_have_titles_and_prices(env, policy, texts):
    query = texts[1].strip().removeprefix("search ")
    assert len(env.catalog.results(query)) > 10
    for turn, number in ((1, 1), (2, 2)):
        said = written_on(ww.draw_page(policy, env, START, texts, turn).axes[0])
        hits = env.catalog.results(query)[10 * (number - 1) : 10 * number]
        for position in hits:
            product = env.catalog.products[position]
            assert product["Title"] in said and product["Price"] in said
        pages = -(-len(env.catalog.results(query)) // 10)
        [line] = [one for one in said if one.startswith(f"Results of “{query[:40]}")]
        assert line.endswith(f"”: page {number} of {pages}")


def test_a_product_shows_its_options_and_what_was_read(env, policy, texts):
    product = product_of(env, texts)
    features = f"features: {'; '.join(product['BulletPoints'])}"
    chosen = texts[13].strip()
    for turn in (4, 5, 6, 7):
        axes = ww.draw_page(policy, env, START, texts, turn).axes[0]
        said = written_on(axes)
        assert f"{product['Title']}    {product['Price']}" in said
        assert any(features.startswith(line) and len(line) > 12 for line in said) == (turn > 4)
        rims = {label: rim for label, (_, rim) in buttons_of(axes).items()}
        orange = [
            label.rpartition("  ")[0] for label, rim in rims.items() if rim == to_rgba(HIGHLIGHT)
        ]
        assert orange == ([chosen] if turn == 7 else [])
        if turn != 5:
            labels = {label.rpartition("  ")[0] for label in rims}
            assert {value for values in product["options"].values() for value in values} <= labels


def test_the_end_says_what_was_bought_and_what_it_is_worth(env, policy, texts):
    figure = ww.draw_page(policy, env, START, texts)
    _, infos = play(env, [text.strip() for text in texts[1::2]])
    said = written_on(figure.axes[0])
    product = product_of(env, texts)
    assert f"Bought: {product['Title']}    {product['Price']}" in said
    assert f"Reward {infos[-1]['reward']:.2f}" in said
    assert f"type: {infos[-1]['reward_parts']['r_type']:.2f}" in said
    assert any(line.startswith("with ") and texts[13].strip() in line for line in said)
    assert len(figure.axes[1].texts) == 0
    short = make("webshop", format="short", products=300, max_steps=2)
    lost = ww.draw_page(policy, short, START, texts[:5])
    assert written_on(lost.axes[0]) == ["Out of turns: nothing was bought. Reward 0."]


def test_the_title_says_what_is_asked_and_done(env, policy, texts):
    asked = env.catalog.goals[7]["instruction_text"]
    title = ww.draw_page(policy, env, START, texts, 4).get_suptitle()
    assert title == f"Asked: {asked}\nTurn 4 of 8: #1"
    start = ww.draw_page(policy, env, START, texts, 0).get_suptitle()
    assert start.endswith("\nTurn 0 of 8: the visit begins")


def test_an_action_that_means_nothing_is_called_invalid(env, policy, texts, monkeypatch):
    asked = asked_of(monkeypatch)
    wrong = [*texts[:3], "buy\n", "invalid\n", *texts[3:5]]
    panel = ww.draw_page(policy, env, START, wrong, 1).axes[1]
    marked = [text.get_text() for text in panel.texts if text.get_color() == HIGHLIGHT]
    assert marked == ["➤ invalid: buy"]
    assert asked[-1][-1] == "buy\n"
    assert panel.get_title() == f"10 best of {len(asked[-1]) - 1} next actions"
    after = ww.draw_page(policy, env, START, wrong, 2)
    assert after.get_suptitle().endswith("Turn 2 of 3: buy, which means nothing there")


def test_a_search_from_another_page_is_valid(env, policy, texts):
    again = [*texts[:3], *play(env, [texts[1].strip(), "search gel"])[0][3:]]
    panel = ww.draw_page(policy, env, START, again, 1).axes[1]
    marked = [text.get_text() for text in panel.texts if text.get_color() == HIGHLIGHT]
    assert marked == ["➤ search gel"]


def test_a_value_that_cannot_be_clicked_is_not_on_offer(env, policy, texts, monkeypatch):
    """As one with a bracket, here and in the original."""
    asked = asked_of(monkeypatch)
    ww.draw_page(policy, env, START, texts[:9], 4)
    monkeypatch.setitem(product_of(env, texts)["options"], "finish", ["gel [rose]"])
    axes = ww.draw_page(policy, env, START, texts[:9], 4).axes[0]
    assert asked[0] == asked[1]
    assert buttons_of(axes)["gel [rose]"][0] == to_rgba("#dddddd")


def test_nothing_found_is_said(env, policy):
    texts, _ = play(env, ["search to"])
    said = written_on(ww.draw_page(policy, env, START, texts).axes[0])
    assert "Results of “to”: none" in said


def test_a_transcript_beyond_the_context_has_a_page_without_values(env, texts):
    figure = ww.draw_page(agent_policy(env, context=100), env, START, texts, 4)
    assert figure.axes[1].get_title() == agent_widgets.TOO_LONG
    assert "description" in buttons_of(figure.axes[0])
    assert {color for color, _ in buttons_of(figure.axes[0]).values()} == {to_rgba("#dddddd")}


def test_a_clone_has_pi_only(env, policy, texts, monkeypatch):
    asked = asked_of(monkeypatch)
    figure = ww.draw_page(agent_policy(env, None), env, START, texts, 4)
    panel = figure.axes[1]
    assert [text.get_text() for text in panel.texts[:2]] == ["π", "π̂, played"]
    assert figure.axes[2].get_xlabel() == "π of an action (no values)"
    found = policy.candidates("".join(texts[:9]), asked[-1])  # whose pi is the clone
    best = found.sort_values("log_pi", ascending=False)["action"].iloc[0].strip()
    assert panel.texts[2].get_text().removeprefix("➤ ") == best


def test_no_text_leaves_its_button_or_the_page(env, policy, texts):
    for turn in range(len(texts) // 2):
        figure = ww.draw_page(policy, env, START, texts, turn)
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw(renderer)
        page = figure.axes[0].get_window_extent(renderer)
        patches = [patch.get_window_extent(renderer) for patch in figure.axes[0].patches]
        for text in figure.axes[0].texts:
            box = text.get_window_extent(renderer)
            assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0, text.get_text()
            middle = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
            for patch in patches:
                if patch.contains(*middle):
                    assert patch.x0 <= box.x0 and box.x1 <= patch.x1, text.get_text()
            assert text.get_fontsize() >= 9
        for text in figure.axes[1].texts:
            assert text.get_window_extent(renderer).x1 <= figure.bbox.x1, text.get_text()


def test_the_original_words_are_drawn_as_well():
    env = make("webshop", format="text", products=20)
    player = CarefulPlayer(env.catalog, 0)
    start = {"goal": 0}
    text, _ = env.reset(options=start)
    texts = [text]
    for _ in range(2):
        [action] = player.act(["".join(texts)])
        texts += [action, env.step(action)[0]]
    texts = texts[:3]
    policy = agent_policy(env, context=8_192, tokenizer=character_tokenizer(env.texts))
    axes = ww.draw_page(policy, env, start, texts, 1).axes[0]
    assert len(buttons_of(axes)) >= 3
    assert all("  " in label for label in buttons_of(axes))


# The explorer


def png(*arguments):
    return widgets._png(ww.draw_page(*arguments))


def test_visits_are_stepped_through(env, policy, texts, shown, capfd):
    other, _ = play(env, ["search gel", "#2"], {"goal": 9})
    starts = [START, {"goal": 9}]
    ww.shop_explorer(policy, env, starts, [{"text": texts}, {"text": other}])
    static, widget = shown
    assert static.alt
    assert static.data == live_picture(widget).value == png(policy, env, START, texts, 1)
    controls(widget)["turn"].value = 4
    assert live_picture(widget).value == png(policy, env, START, texts, 4)
    controls(widget)["game"].value = 2  # ends after two turns
    assert live_picture(widget).value == png(policy, env, starts[1], other, 2)
    assert controls(widget)["turn"].value == 2
    assert plt.get_fignums() == []
    assert capfd.readouterr() == ("", "")


def test_one_shops_oneself(env, policy, texts, shown):
    env.reset(options={"goal": 11})
    before = env._session
    ww.shop_explorer(policy, env, [START], [{"text": texts}], turn=0)
    widget = shown[1]
    picture, action = live_picture(widget), controls(widget)["play on"]
    search = action.options[1]
    assert search.startswith("search ")
    done = []
    for one in (search, "#1", "buy"):
        assert one in action.options
        action.value = one
        done.append(one)
        own, infos = play(env, done)
        assert controls(widget)["turn"].value == len(done)
        assert picture.value == png(policy, env, START, own, len(done))
    assert infos[-1]["reward_parts"]
    assert list(action.options) == [agent_widgets.NOT_YET, agent_widgets.RECORDED]
    action.value = agent_widgets.RECORDED
    assert picture.value == png(policy, env, START, texts, 3)
    assert env._session is before  # the environment that was given is left alone


def test_a_study_shows_games_of_a_method(shown):
    task = WebShopTask(PROFILES["smoke"], 0)
    trained = TrainedMethod.cloned(task.new_model(), task.tokenizer)
    task.explorer(trained, {"temperature": 0.5})
    static, widget = shown
    assert len(controls(widget)["game"].options) == 8
    assert static.data == live_picture(widget).value


def test_bad_input_is_named(env, policy, texts, shown):
    with pytest.raises(ValueError, match="has 8 turns, got turn 9"):
        ww.draw_page(policy, env, START, texts, 9)
    with pytest.raises(ValueError, match="not of the game"):
        ww.draw_page(policy, env, {"goal": 8}, texts)
    with pytest.raises(ValueError, match="1 starts and 0 transcripts"):
        ww.shop_explorer(policy, env, [START], [])
    with pytest.raises(ValueError, match="game must be one of"):
        ww.shop_explorer(policy, env, [START], [{"text": texts}], game=2)
    assert shown == []
