"""The chess pictures and their explorer without a browser: what they draw, and that it is so."""

import chess
import matplotlib.pyplot as plt
import pytest
from explorers import controls, live_picture
from matplotlib.colors import to_rgba
from small_games import endgames, values_of

from qsft_lite.envs import generate, make
from qsft_lite.tasks.chess import widgets as cw
from qsft_lite.viz import explorers as widgets
from qsft_lite.viz.plots import VALUE_COLORS

BOARD = chess.Board("1k6/8/1K6/8/8/8/8/7Q w - - 0 1")
MATE = chess.Move.from_uci("h1h8")


def half_of(board):
    return {move: 0.5 for move in board.legal_moves}


@pytest.fixture
def axes():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


@pytest.fixture(scope="module")
def games():
    return endgames(2)


def texts_of(axes):
    return [text.get_text() for text in axes.texts if text.get_text()]


# A game


@pytest.mark.parametrize("format", ["pieces", "fen"])
def test_a_game_is_read_from_its_transcript(format):
    env = make("endgames", materials="Q", format=format)
    state, _ = env.reset(seed=0, options={"position": BOARD.fen()})
    texts, boards = [state], [BOARD.board_fen()]
    for action in ("Qa1\n", "Kc6\n"):  # Qa1 is legal, then the black king is somewhere
        texts.append(action)
        state, *_, info = env.step(action)
        texts.append(state)
        boards.append(info["position"].split()[0])
    transcript = {"text": texts, "is_action": [False, True, False, True, False]}
    turns = cw.game_of(env, transcript)
    assert [board.board_fen() for board, _ in turns] == boards[:2]
    assert [move.uci() for _, move in turns] == ["h1a1", "b6c6"]


def test_a_whole_game_in_words_is_read_from_its_transcript():
    env = make("chess", opponent="random", format="pieces")
    texts = [env.reset(seed=0)[0]]
    for action in ("Pe2 e4\n", "Ng1 f3\n", "Pe2 e4\n"):  # the last is illegal by now
        texts += [action, env.step(action)[0]]
    transcript = {"text": texts, "is_action": [False, True] * 3 + [False]}
    moves = [move and move.uci() for _, move in cw.game_of(env, transcript)]
    assert moves == ["e2e4", "g1f3", None]


def test_a_mirrored_game_is_read_as_it_is_shown():
    env = make("endgames", format="mirrored")
    for row in generate("endgames", 20, 0, format="mirrored"):
        actions = [text for text, acts in zip(row["text"], row["is_action"], strict=True) if acts]
        for (board, move), action in zip(cw.game_of(env, row), actions, strict=True):
            assert board.san(move).rstrip("+#") + "\n" == action


def test_an_illegal_move_is_none():
    env = make("endgames", materials="Q", format="pieces")
    transcript = {"text": ["Kb6 Qh1 kb8\n", "Qg3\n"], "is_action": [False, True]}
    assert [move for _, move in cw.game_of(env, transcript)] == [None]


def test_a_foreign_transcript_is_named():
    env = make("endgames", materials="Q", format="pieces")
    with pytest.raises(ValueError, match="no piece and its square"):
        cw.game_of(env, {"text": ["Wordle:\n", "Qg3\n"], "is_action": [False, True]})


# The pictures


def test_the_men_stand_on_their_squares(axes):
    cw.draw_board(axes, BOARD, title="here")
    king, queen = chess.UNICODE_PIECE_SYMBOLS["k"], chess.UNICODE_PIECE_SYMBOLS["q"]
    # Each man is drawn twice: its rim, then itself.
    men = [(*map(round, text.get_position()), text.get_text()) for text in axes.texts[1::2]]
    assert sorted(men) == [(1, 5, king), (1, 7, king), (7, 0, queen)]
    inks = {text.get_position()[1]: text.get_color() for text in axes.texts[1::2]}
    assert inks == {5: "white", 7: "black", 0: "white"}
    assert axes.get_title() == "here"
    assert len(axes.patches) == 64
    assert axes.patches[0].get_facecolor() == to_rgba(cw.DARK)  # a1


def test_the_moves_of_highest_value_are_drawn_and_the_played_one(axes):
    values = values_of(BOARD)
    worst = min(values, key=lambda move: (values[move], move.uci()))
    cw.draw_board(axes, BOARD, values, most=3, played=worst)
    shown = [(round(x), round(y)) for x, y in (line.get_xydata()[0] for line in axes.lines)]
    best = sorted(values, key=lambda move: (-values[move], move.uci()))[:3]
    wanted = {
        (chess.square_file(m.to_square), chess.square_rank(m.to_square)) for m in [*best, worst]
    }
    assert set(shown) == wanted and len(shown) == 4
    numbers = [text for text in texts_of(axes) if "." in text]
    assert sorted(numbers) == sorted(
        f"{values[move]:.2f}".removeprefix("0") for move in [*best, worst]
    )


def test_a_move_has_the_color_of_its_value(axes):
    cw.draw_board(axes, BOARD, {MATE: 0.7})
    [dot] = axes.lines
    assert to_rgba(dot.get_color()) == pytest.approx(VALUE_COLORS(0.7))


def test_a_board_without_values_has_no_arrows(axes):
    cw.draw_board(axes, BOARD)
    assert len(axes.lines) == 0


def test_boards_stand_side_by_side():
    figure = cw.draw_values(BOARD, {"one": values_of(BOARD), "two": half_of(BOARD)}, title="both")
    assert [axes.get_title() for axes in figure.axes[:2]] == ["one", "two"]
    assert figure.get_suptitle() == "both"
    assert plt.get_fignums() == []


def test_three_boards_take_two_rows():
    figure = cw.draw_values(BOARD, {name: half_of(BOARD) for name in "abc"})
    assert [axes.get_title() for axes in figure.axes[:4]] == ["a", "b", "c", ""]
    assert [axes.axison for axes in figure.axes[:4]] == [True, True, True, False]


def test_impossible_pictures_are_named(axes):
    illegal = chess.Move.from_uci("h1g3")
    with pytest.raises(ValueError, match="h1g3 is not legal"):
        cw.draw_board(axes, BOARD, {illegal: 1.0})
    with pytest.raises(ValueError, match="h1g3 is not legal"):
        cw.draw_board(axes, BOARD, played=illegal)
    with pytest.raises(ValueError, match="at least one kind of values"):
        cw.draw_values(BOARD, {})


# The explorer


def test_games_are_stepped_through(games, shown, capfd):
    kinds = {"learned": half_of, "exact": values_of}
    cw.board_explorer(games, kinds)
    static, widget = shown
    picture = live_picture(widget)
    assert static.data == picture.value and static.alt

    def expected(game, turn, most=8):
        board, played = games[game][turn]
        title = (
            f"Game {game + 1}, turn {turn + 1} of {len(games[game])}: "
            f"White plays {board.san(played)}"
        )
        values = {name: function(board) for name, function in kinds.items()}
        figure = cw.draw_values(board, values, most=most, played=played, title=title)
        return widgets._png(figure)

    assert picture.value == expected(0, 0)
    by_name = controls(widget)
    by_name["turn"].value = 2
    assert picture.value == expected(0, min(2, len(games[0])) - 1)
    by_name["moves shown"].value = 4
    by_name["game"].value = 2
    assert picture.value == expected(1, min(2, len(games[1])) - 1, most=4)
    by_name["turn"].value = max(map(len, games))
    for number, game in enumerate(games):
        by_name["game"].value = number + 1
        assert picture.value == expected(number, len(game) - 1, most=4)
    assert plt.get_fignums() == []
    assert capfd.readouterr() == ("", "")


def test_an_illegal_move_is_said_to_be_one(shown, monkeypatch):
    titles = []
    draw = cw.draw_values
    monkeypatch.setattr(
        cw, "draw_values", lambda *a, **k: (titles.append(k["title"]), draw(*a, **k))[1]
    )
    cw.board_explorer([[(BOARD, None)]], {"exact": values_of})
    assert titles == ["Game 1, turn 1 of 1: White plays an illegal move"]


def test_bad_start_values_are_named(games, shown):
    with pytest.raises(ValueError, match="game must be one of 1, 2, got 3"):
        cw.board_explorer(games, {"exact": values_of}, game=3)
    with pytest.raises(ValueError, match="most must be one of 4, 8, 16, 99, got 5"):
        cw.board_explorer(games, {"exact": values_of}, most=5)
    for empty in ([], [[]]):
        with pytest.raises(ValueError, match="at least one game, each with a turn or more"):
            cw.board_explorer(empty, {"exact": values_of})
    assert shown == []
