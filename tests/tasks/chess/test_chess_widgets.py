"""The chess pictures and their explorer without a browser: what they draw, and that it is so."""

import chess
import matplotlib.pyplot as plt
import pytest
from explorers import controls, live_picture, pressed
from matplotlib.collections import EllipseCollection
from matplotlib.colors import to_rgb, to_rgba
from small_games import endgames, values_of

from qsft_lite.envs import generate, make
from qsft_lite.tasks.chess import widgets as cw
from qsft_lite.viz import explorers as widgets
from qsft_lite.viz.plots import HIGHLIGHT, VALUE_COLORS

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
    king, queen = (cw._sign(piece)[0] for piece in (chess.KING, chess.QUEEN))
    # Each man is drawn twice: its rim, then itself.
    men = {
        tuple(place): (line.get_marker(), line.get_color())
        for line in axes.lines[1::2]
        for place in line.get_xydata().astype(int).tolist()
    }
    wanted = {(1, 5): (king, "white"), (1, 7): (king, "black"), (7, 0): (queen, "white")}
    assert men == wanted
    assert axes.get_title() == "here"
    [squares] = axes.images
    assert squares.get_array().shape == (8, 8, 3)
    assert tuple(squares.get_array()[0, 0]) == to_rgb(cw.DARK) and squares.origin == "lower"  # a1


def test_all_kinds_of_men_have_a_sign_of_one_scale(axes):
    cw.draw_board(axes, chess.Board())
    assert (
        len(axes.lines) == 2 * 12 and sum(len(line.get_xydata()) for line in axes.lines) == 2 * 32
    )
    sizes = [cw._sign(piece)[1] for piece in chess.PIECE_TYPES]
    assert min(sizes) > 0.5 * max(sizes) and sizes[chess.PAWN - 1] < sizes[chess.KING - 1]


def test_the_moves_of_highest_value_are_drawn_and_the_played_one(axes):
    values = values_of(BOARD)
    worst = min(values, key=lambda move: (values[move], move.uci()))
    cw.draw_board(axes, BOARD, values, most=3, played=worst)
    [dots] = [each for each in axes.collections if isinstance(each, EllipseCollection)]
    shown = [tuple(place) for place in dots.get_offsets().astype(int).tolist()]
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
    arrows, dots = axes.collections
    for artist in (arrows, dots):
        assert artist.get_facecolor()[0].tolist() == pytest.approx(VALUE_COLORS(0.7))
        assert artist.get_edgecolor()[0].tolist() == pytest.approx(to_rgba("white"))
    assert (arrows.X + arrows.U < 7.5).all() and (arrows.Y + arrows.V < 7.5).all()
    played, _ = plt.subplots()
    cw.draw_board(played.gca(), BOARD, {MATE: 0.7}, played=MATE)
    rim = played.gca().collections[1].get_edgecolor()[0]
    assert rim.tolist() == pytest.approx(to_rgba(HIGHLIGHT))
    plt.close(played)


def test_a_board_without_values_has_no_arrows(axes):
    cw.draw_board(axes, BOARD)
    assert len(axes.collections) == 0


def test_boards_stand_side_by_side():
    figure = cw.draw_values(BOARD, {"one": values_of(BOARD), "two": half_of(BOARD)}, title="both")
    assert [axes.get_title() for axes in figure.axes[:2]] == ["one", "two"]
    assert figure.get_suptitle() == "both"
    assert plt.get_fignums() == []


def test_three_boards_take_two_rows():
    figure = cw.draw_values(BOARD, {name: half_of(BOARD) for name in "abc"})
    boards = figure.axes[:3]
    assert [axes.get_title() for axes in boards] == ["a", "b", "c"]
    places = [axes.get_position() for axes in boards]
    assert places[0].y0 == pytest.approx(places[1].y0) and places[0].y0 > places[2].y1
    assert places[0].x0 == pytest.approx(places[2].x0) and places[0].x1 < places[1].x0
    assert len(figure.axes) == 4  # and the bar of colors


def test_a_bare_board_needs_no_colors():
    figure = cw.draw_values(BOARD, {"": {}}, note="your move")
    assert len(figure.axes) == 1
    assert [text.get_text() for text in figure.texts] == ["your move"]


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


def test_the_method_on_the_first_board_is_chosen(games, shown, monkeypatch):
    drawn = titles_and_notes(monkeypatch)
    kinds = {"half": half_of, "none": lambda board: {}}
    cw.board_explorer(games, {"exact": values_of}, methods=kinds)
    controls(shown[1])["method"].value = "none"
    assert [[*kinds] for kinds, _, _ in drawn] == [["half", "exact"], ["none", "exact"]]


def titles_and_notes(monkeypatch):
    """Of each picture drawn: its values, title and note."""
    drawn = []
    draw = cw.draw_values

    def note(board, values, **options):
        drawn.append((values, options["title"], options.get("note", "")))
        return draw(board, values, **options)

    monkeypatch.setattr(cw, "draw_values", note)
    return drawn


def test_the_button_goes_to_the_largest_fall(shown, monkeypatch):
    drawn = titles_and_notes(monkeypatch)
    bad, good = chess.Move.from_uci("h1h2"), MATE
    illegal = chess.Move.from_uci("h1g3")
    game = [(BOARD, good), (BOARD, bad), (BOARD, None), (BOARD, good)]
    assert not BOARD.is_legal(illegal)
    cw.board_explorer([game, game[2:]], {"exact": values_of}, judge=values_of)
    assert drawn[-1][2] == "Qh8#, 1.00, is one of the best moves."
    button = pressed(shown[1])["largest fall"]
    button.value = True
    assert controls(shown[1])["turn"].value == 2 and button.value is False
    fall = 1 - values_of(BOARD)[bad]
    best = max(values_of(BOARD), key=lambda move: (values_of(BOARD)[move], move.uci()))
    assert drawn[-1][1].startswith("Game 1, turn 2 of 4")
    wanted = f"is worth {1 - fall:.2f}, {BOARD.san(best)} 1.00: a fall of {fall:.2f}."
    assert drawn[-1][2].endswith(wanted)
    controls(shown[1])["turn"].value = 3
    assert drawn[-1][2] == "An illegal move: the position stays."
    controls(shown[1])["game"].value = 2
    button.value = True
    assert drawn[-1][1].startswith("Game 2, turn 1 of 2")
    assert len(drawn) == 5  # the button draws once


def test_one_plays_white(shown, monkeypatch, capfd):
    drawn = titles_and_notes(monkeypatch)
    env = make("endgames", materials="Q", format="mirrored")
    start = "1k6/8/2K5/8/8/8/8/7Q w - - 0 1"
    values = {"half": half_of, "exact": values_of}
    cw.own_moves_explorer(env, values, judge=("Q*", values_of), positions=[start, None], seed=3)
    static, widget = shown
    assert static.data == live_picture(widget).value and len(static.alt) > 60
    move = controls(widget)["White's move"]
    typed, back = pressed(widget)["or type it"], pressed(widget)["take back"]
    sans = sorted(map(chess.Board(start).san, chess.Board(start).legal_moves))
    assert move.options == (cw.CHOOSE, *sans) and move.value == cw.CHOOSE
    move.value = "Qa1"
    assert drawn[-1][1] == "White's move 2; 0 illegal, score +0" and move.value == cw.CHOOSE
    assert drawn[-1][2].startswith("You: Qa1. Black: K") and "By Q*: Qa1" in drawn[-1][2]
    after = live_picture(widget).value
    for bad in ("Qd9", "???", "Ke9", "\\", "K" * 500, "Qh1h2h3", "0000", r"$\frac$", "$"):
        typed.value = bad
        assert "is no legal move here: reward -1" in drawn[-1][2] and typed.value == ""
    assert drawn[-1][1] == "White's move 11; 9 illegal, score -9"
    for _ in range(9):
        back.value = True
    assert live_picture(widget).value == after and back.value is False
    typed.value = "Qa1 "  # not there any more, as the queen has moved
    assert "no legal move" in drawn[-1][2]
    controls(widget)["game"].value = 2
    assert drawn[-1][1:] == ("White's move 1", "")
    controls(widget)["game"].value = 1
    assert live_picture(widget).value == static.data
    back.value = True  # nothing to take back
    assert live_picture(widget).value == static.data
    assert env.board is None, "the game of the notebook is left alone"
    assert plt.get_fignums() == [] and capfd.readouterr() == ("", "")


def test_the_end_of_ones_game_is_said(shown, monkeypatch):
    drawn = titles_and_notes(monkeypatch)
    env = make("endgames", materials="Q", format="pieces")
    cw.own_moves_explorer(env, judge=("Q*", values_of), positions=[BOARD.fen()])
    move = controls(shown[1])["White's move"]
    pressed(shown[1])["or type it"].value = "Qh8"
    assert drawn[-1][1] == "You have won after 1 try; 0 illegal, score +1"
    assert move.options == (cw.CHOOSE,)
    pressed(shown[1])["or type it"].value = "Qh7"  # nothing is played any more
    assert drawn[-1][1] == "You have won after 1 try; 0 illegal, score +1"
    pressed(shown[1])["take back"].value = True
    assert drawn[-1][1] == "White's move 1"


def test_one_plays_a_whole_game_against_random_moves(shown, monkeypatch):
    drawn = titles_and_notes(monkeypatch)
    env = make("chess", opponent="random", format="pieces", max_moves=4)
    cw.own_moves_explorer(env)
    typed = pressed(shown[1])["or type it"]
    for text in ("e4", "e2", "Ke2", "a3"):
        typed.value = text
    assert drawn[-1][1].startswith("No more moves after 4 tries; 1 illegal, score -1")
    assert [values for values, _, _ in drawn] == [{"": {}}] * 5


def test_one_needs_a_position(shown):
    env = make("endgames", materials="Q", format="pieces")
    with pytest.raises(ValueError, match="at least one position"):
        cw.own_moves_explorer(env, positions=[])
    with pytest.raises(ValueError, match="is not a FEN"):
        cw.own_moves_explorer(env, positions=["here"])
    assert shown == []
