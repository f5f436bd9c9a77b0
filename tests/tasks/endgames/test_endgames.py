"""Endgames: tables and values against brute force, an engine and play; games, too."""

import hashlib
import shutil
from functools import cache
from itertools import combinations

import chess
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsft_lite import envs
from qsft_lite.evaluate import evaluate
from qsft_lite.models import word_tokenizer
from qsft_lite.tasks.chess.engine import PLACES
from qsft_lite.tasks.chess.text import read_move, unspaced
from qsft_lite.tasks.endgames import tables as endgame_tables
from qsft_lite.tasks.endgames.data import play_games
from qsft_lite.tasks.endgames.env import Endgames
from qsft_lite.tasks.endgames.moves import (
    MATERIALS,
    black_moves,
    in_check,
    is_legal,
    left,
    white_moves,
)
from qsft_lite.tasks.endgames.opponents import Defender
from qsft_lite.tasks.endgames.players import EndgamePlayer, MixturePlayer, PerfectPlayer
from qsft_lite.tasks.endgames.space import SYMMETRIES, TRIANGLE, space
from qsft_lite.tasks.endgames.starts import (
    start_positions,
    test_positions,
    validation_positions,
)
from qsft_lite.tasks.endgames.tables import DRAW, solve, table
from qsft_lite.tasks.endgames.text import endgame_words, fen_of, parts, placement, read_board
from qsft_lite.tasks.endgames.values import exact_q, exact_values

LONGEST = {"Q": 10, "R": 16, "QR": 6, "RR": 7}  # moves to mate
STOCKFISH = next(filter(shutil.which, ("stockfish", *PLACES)), None)
needs_engine = pytest.mark.skipif(not STOCKFISH, reason="no engine: apt install stockfish")
materials = st.sampled_from(MATERIALS)


def board_of(material: str, squares, turn=chess.WHITE) -> chess.Board:
    board = chess.Board(None)
    for square, man in zip(squares, f"K{material}k", strict=True):
        board.set_piece_at(int(square), chess.Piece.from_symbol(man))
    board.turn = turn
    return board


def drawn(material: str, n: int, seed: int = 0) -> np.ndarray:
    """(n, k) positions with the kings apart; Black may be in check."""
    squares = np.random.default_rng(seed).integers(64, size=(4 * n + 50, len(material) + 2))
    return squares[is_legal(material, squares)][:n]


# Moves


@pytest.mark.parametrize("material", MATERIALS)
def test_moves_are_those_of_the_chess_package(material):
    squares = drawn(material, 500)
    check = in_check(material, squares)
    movers, targets, legal = white_moves(material, squares)
    steps, can_step, taken = black_moves(material, squares)
    for i, row in enumerate(squares):
        board = board_of(material, row, chess.BLACK)
        assert board.is_check() == check[i]
        assert {m.to_square for m in board.legal_moves} == set(steps[i][can_step[i]])
        captures = {m.to_square for m in board.generate_legal_captures()}
        assert captures == set(steps[i][can_step[i] & (taken[i] >= 0)])
        if not check[i]:
            board.turn = chess.WHITE
            moves = [(m.from_square, m.to_square) for m in board.legal_moves]
            ours = [
                (row[a], b) for a, b, yes in zip(movers, targets[i], legal[i], strict=True) if yes
            ]
            assert sorted(moves) == sorted(ours)


def test_symmetric_positions_share_an_index():
    for material in MATERIALS:
        squares = drawn(material, 300)
        index = space(material).index(squares)
        back = space(material).squares(index)
        for row, canonical in zip(squares, back, strict=True):
            assert any(np.array_equal(image[row], canonical) for image in SYMMETRIES)
        np.testing.assert_array_equal(space(material).index(back), index)


def test_words_on_a_line_share_a_part():
    """Queens that see each other share a file, a rank or a diagonal; nobody else does."""
    queens = {square: parts(f"Q{chess.SQUARE_NAMES[square]}\n") for square in chess.SQUARES}
    shared = {pair: set(queens[pair[0]]) & set(queens[pair[1]]) for pair in combinations(queens, 2)}
    for (first, second), names in shared.items():
        board = chess.Board(None)
        board.set_piece_at(first, chess.Piece.from_symbol("Q"))
        sees = second in board.attacks(first)
        assert len(names) == 1 + sees  # that it is a queen's move, and the line
    assert not set(parts("Kd4\n")) & set(parts("Rd4\n"))
    assert set(parts("Rad4\n")) > set(parts("Rd4\n"))
    assert len({frozenset(parts(word)) for word in endgame_words()}) == len(endgame_words())


# Distances to mate


@pytest.mark.parametrize("material", MATERIALS)
def test_the_longest_mates_are_the_known_ones(material):
    white = table(material).white[space(material).ready]
    assert white.max() == LONGEST[material]  # and so White, to move, always wins


@pytest.mark.parametrize("material", ["Q", "R"])
def test_a_table_worked_out_anew_is_the_cached_one(material):
    solved = solve(material, {})
    assert solved.sha256 == endgame_tables.SHA256[material] == table(material).sha256


def brute_force(board: chess.Board, moves: int) -> int | None:
    """White's moves to mate, at most `moves`, by search alone; None when there is no mate."""

    def mates(moves: int) -> bool:
        for move in list(board.legal_moves):
            board.push(move)
            found = board.is_checkmate() or (
                moves > 1 and not board.is_stalemate() and forced(moves)
            )
            board.pop()
            if found:
                return True
        return False

    def forced(moves: int) -> bool:
        for reply in list(board.legal_moves):
            board.push(reply)
            found = mates(moves - 1)
            board.pop()
            if not found:
                return False
        return True

    return next((n for n in range(1, moves + 1) if mates(n)), None)


@pytest.mark.parametrize("material", MATERIALS)
def test_short_mates_are_those_of_a_search(material):
    squares = drawn(material, 2000, seed=5)
    squares = squares[~in_check(material, squares)]
    distance = table(material).white_distance(squares)
    for wanted, n in ((1, 6), (2, 6), (3, 1)):
        for row in squares[distance == wanted][:n]:
            assert brute_force(board_of(material, row), 3) == wanted
    for row in squares[distance > 2][:4]:
        assert brute_force(board_of(material, row), 2) is None


@needs_engine
@pytest.mark.parametrize("material", MATERIALS)
def test_mates_are_those_of_the_engine(material):
    squares = drawn(material, 100, seed=9)
    squares = squares[~in_check(material, squares)]
    distance = table(material).white_distance(squares)
    near = distance <= 4  # the engine finds these in no time, and long ones not always shortest
    squares, distance = squares[near][:6], distance[near][:6]
    assert len(squares) >= 2
    with chess.engine.SimpleEngine.popen_uci(STOCKFISH) as engine:
        for row, moves in zip(squares, distance.tolist(), strict=True):
            info = engine.analyse(
                board_of(material, row), chess.engine.Limit(mate=moves, time=5), game=object()
            )
            assert info["score"].white().mate() == moves


@pytest.mark.parametrize("material", MATERIALS)
def test_distances_follow_from_one_another(material):
    tables = table(material)
    squares = drawn(material, 60, seed=2)
    for row in squares:
        board = board_of(material, row, chess.BLACK)
        assert tables.black_distance(row[None])[0] == naive_black(board)
        if not board.is_check():
            board.turn = chess.WHITE
            after = []
            for move in list(board.legal_moves):
                board.push(move)
                after.append(int(tables.black_distance(read_board(board)[1])[0]))
                board.pop()
            assert tables.white_distance(row[None])[0] == 1 + min(after)


def naive_black(board: chess.Board) -> int:
    distances = [0 if board.is_checkmate() else DRAW] if not any(board.legal_moves) else []
    for move in list(board.legal_moves):
        board.push(move)
        material, squares = read_board(board)
        distances.append(int(table(material).white_distance(squares)[0]) if material else DRAW)
        board.pop()
    return max(distances)


def test_a_damaged_or_strange_cache_is_replaced(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("QSFT_LITE_CACHE", str(tmp_path))
    table.cache_clear()
    try:
        first = table("Q")
        (file,) = tmp_path.iterdir()
        for content in (b"", file.read_bytes()[:-500], b"PK not a zip file"):
            file.write_bytes(content)
            table.cache_clear()
            assert table("Q").sha256 == first.sha256
            assert "anew" in caplog.text
            caplog.clear()
        np.savez_compressed(file, white=first.white * 0, black=first.black)
        table.cache_clear()
        assert table("Q").sha256 == first.sha256
        assert "not the expected table" in caplog.text
        caplog.clear()
        table.cache_clear()
        table("Q")
        assert not caplog.text  # the file is whole again
    finally:
        table.cache_clear()


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QSFT_LITE_CACHE", str(tmp_path / "file"))
    solved = table.__wrapped__("Q")
    assert solved.sha256 == endgame_tables.SHA256["Q"]
    assert "not kept" in caplog.text


# Exact values


@cache
def values(material, behavior, gamma):
    behavior = None if behavior is None else {"perfect": behavior, "random": 1 - behavior}
    return exact_values(material, behavior=behavior, gamma=gamma)


@pytest.mark.parametrize("material", ["Q", "R"])
@pytest.mark.parametrize("behavior", [None, 0.0, 0.6, 1.0])
@pytest.mark.parametrize("gamma", [0.9])
def test_values_satisfy_the_bellman_equation(material, behavior, gamma):
    exact = values(material, behavior, gamma)
    squares = drawn(material, 12, seed=3)
    squares = squares[~in_check(material, squares)]
    q = exact.q(squares)
    by_move = exact_q(
        board_of(material, squares[0]),
        behavior=None if behavior is None else {"perfect": behavior, "random": 1 - behavior},
        gamma=gamma,
    )
    assert sorted(by_move.values()) == sorted(q[0][~np.isnan(q[0])].tolist())
    movers, targets, legal = white_moves(material, squares)
    for i, row in enumerate(squares):
        board = board_of(material, row)
        qs, distances = [], []
        for mover, target in zip(movers[legal[i]], targets[i][legal[i]], strict=True):
            move = chess.Move(int(row[mover]), int(target))
            board.push(move)
            distances.append(naive_black(board))
            qs.append(naive_q(board, material, behavior, gamma))
            board.pop()
        np.testing.assert_allclose(q[i][legal[i]], qs, atol=1e-8)
        assert np.isnan(q[i][~legal[i]]).all()
        best = np.array(distances) == min(distances)
        v = max(qs)
        if behavior is not None:
            v = behavior * np.mean(np.array(qs)[best]) + (1 - behavior) * np.mean(qs)
        assert exact.v(row[None])[0] == pytest.approx(v, abs=1e-8)
        if behavior is None:
            assert v == pytest.approx(gamma ** min(distances))


def naive_q(board, material, behavior, gamma) -> float:
    """The value of a position with Black to move, from the values one move later."""
    if board.is_game_over():
        return float(board.is_checkmate())
    after = []
    for reply in list(board.legal_moves):
        board.push(reply)
        material, squares = read_board(board)
        distance, v = DRAW, 0.0
        if material:
            distance = int(table(material).white_distance(squares)[0])
            v = values(material, behavior, gamma).v(squares)[0]
        after.append((distance, v))
        board.pop()
    longest = max(distance for distance, _ in after)
    return gamma * np.mean([v for d, v in after if d == longest])


def test_better_play_is_worth_more():
    ready = space("R").ready
    means = [values("R", behavior, 0.99).white[ready].mean() for behavior in (0, 0.6, 1)]
    best = values("R", None, 0.99).white[ready].mean()
    assert means[0] < means[1] < means[2]
    assert means[2] == pytest.approx(best, abs=1e-8)  # the quickest mate is the best play


def test_behavior_values_are_what_games_earn():
    behavior, gamma = {"perfect": 0.6, "random": 0.4}, 0.95
    exact = exact_values("Q", behavior=behavior, gamma=gamma)
    start = drawn("Q", 400, seed=6)
    start = start[~in_check("Q", start)][[3]]
    games = play_games(
        [("Q", start[0])] * 4000, MixturePlayer(0, "fen", behavior), Defender("perfect", 1)
    )
    earned = [
        sum(reward) * gamma ** (len(reward) // 2 - 1) for reward in games["reward"]
    ]  # the one reward comes with the last move
    error = np.std(earned) / np.sqrt(len(earned))
    assert np.mean(earned) == pytest.approx(exact.v(start)[0], abs=4 * error + 1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"behavior": {"perfct": 1}}, "did you mean 'perfect'"),
        ({"behavior": {"engine": 1}}, "part of behavior"),
        ({"behavior": {"perfect": -1}}, "at least 0"),
        ({"behavior": {}}, "weights"),
        ({"gamma": 0}, "gamma"),
    ],
)
def test_wrong_settings_of_values_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        exact_values("Q", **options)


# Starts


def test_the_held_out_positions_are_fixed():
    test, validation = test_positions(), validation_positions()
    assert len(test) == len(set(test)) == 645
    assert len(validation) == len(set(validation)) == 200
    assert not set(test) & set(validation)
    digest = hashlib.sha256("\n".join(test + validation).encode()).hexdigest()
    assert digest[:16] == "f48930694ba62eca"
    found = [read_board(chess.Board(fen))[0] for fen in test]
    assert [found.count(material) for material in MATERIALS] == [162, 161, 161, 161]


def test_every_held_out_position_can_be_played():
    env = envs.make("endgames")
    for fen in test_positions() + validation_positions():
        env.reset(options={"position": fen})


def test_no_game_starts_from_a_held_out_position_or_its_mirror_image():
    held_out = set()
    for fen in test_positions() + validation_positions():
        board = chess.Board(fen)
        for flip in (chess.flip_vertical, chess.flip_horizontal, chess.flip_diagonal):
            held_out |= {board.board_fen(), board.transform(flip).board_fen()}
    rng = np.random.default_rng(0)
    for material in MATERIALS:
        starts = start_positions(material, 20_000, rng)
        assert not held_out & {placement(material, row) for row in starts.tolist()}
        assert is_legal(material, starts).all() and not in_check(material, starts).any()


@given(materials, st.permutations(range(64)))
def test_placements_are_those_of_a_fen(material, order):
    squares = np.array(order[: len(material) + 2])
    assert fen_of(material, squares) == board_of(material, squares).fen()


# Games


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from(["perfect", "random"]),
    st.sampled_from(Endgames.formats),
    st.sampled_from([0.0, 0.5, 0.9]),
    st.sampled_from([3, 400]),
)
def test_recorded_games_are_what_the_environment_plays(seed, opponent, format, perfect, max_moves):
    dataset = envs.generate(
        "endgames",
        6,
        seed,
        behavior={"perfect": perfect, "random": 1 - perfect},
        opponent=opponent,
        format=format,
        max_moves=max_moves,
    )
    for game in dataset:
        assert_played(game, format, max_moves)


def test_recorded_games_end_by_repetition_as_those_of_the_environment():
    class Shuffler(EndgamePlayer):
        """Moves its king to the lowest square it can: soon to and fro between two."""

        def choose(self, material, squares, moves):
            king = moves[2][:, :8]
            return np.where(king, moves[1][:, :8], 99).argmin(axis=1)

    starts = start_positions("R", 30, np.random.default_rng(2))
    games = play_games([("R", row) for row in starts], Shuffler(), Defender("perfect", 0))
    repeated = 0
    for row in zip(*games.values(), strict=True):
        game = dict(zip(games, row, strict=True))
        assert_played(game, "fen", 400)
        board = chess.Board(unspaced(game["text"][-1]))
        repeated += not board.is_insufficient_material() and board.halfmove_clock < 150
    assert repeated >= 5


def assert_played(game, format, max_moves):
    """The environment plays the recorded moves with the same texts, rewards and end."""
    env = envs.make(
        "endgames", opponent=Replies(game["text"], format), format=format, max_moves=max_moves
    )
    start = env.read_state(game["text"][0]).fen()
    text, rewards = [env.reset(options={"position": start})[0]], [0.0]
    for action in game["text"][1::2]:
        observation, reward, terminated, truncated, info = env.step(action)
        assert info["valid"]
        text += [action, observation]
        rewards += [reward, 0.0]
    assert (text, rewards, terminated) == (game["text"], game["reward"], game["done"])
    assert terminated != truncated
    assert game["is_action"] == [i % 2 == 1 for i in range(len(text))]


class Replies:
    """Black's moves as recorded."""

    def __init__(self, texts, format):
        self.texts = texts
        self.env = envs.make("endgames", opponent="random", format=format)

    def choose(self, board, rng):
        following = self.texts[2 * board.fullmove_number]
        for move in board.legal_moves:
            after = board.copy()
            after.push(move)
            if self.env.state_text(after) == following:
                return move
        raise AssertionError(f"no reply leads to {following!r}")


def test_the_defender_of_the_environment_and_of_the_data_are_the_same():
    env = envs.make("endgames")
    for material in MATERIALS:
        for row in drawn(material, 12, seed=4):
            board = board_of(material, row, chess.BLACK)
            if board.is_game_over():
                continue
            single = {env.opponent.choose(board, np.random.default_rng(i)) for i in range(80)}
            many = np.tile(row, (200, 1))
            replies = black_moves(material, many)
            steps = Defender("perfect", 0).choose(material, many, replies)
            targets = set(replies[0][0][steps].tolist())
            assert {move.to_square for move in single} == targets


def test_a_game_in_words_takes_few_tokens():
    env = envs.make("endgames", format="pieces", materials=["RR"])
    tokenizer = word_tokenizer(env.texts)
    text, info = env.reset(seed=0)
    assert len(tokenizer(text)["input_ids"]) == 4
    board = chess.Board(info["position"])
    for move in board.legal_moves:
        action = env.action_text(board, move)
        assert len(tokenizer(action)["input_ids"]) == 1
        assert read_move(board, action) == move
    dataset = envs.generate("endgames", 300, 0, format="pieces", behavior={"random": 1})
    for game in dataset["text"]:
        for segment in game:
            assert tokenizer.decode(tokenizer(segment)["input_ids"]) == segment


def test_mirror_images_look_the_same():
    """Every image of a position is shown as one, with the black king in the triangle."""
    env = envs.make("endgames", format="mirrored")
    for material in MATERIALS:
        for row in start_positions(material, 20, np.random.default_rng(6)):
            boards = [board_of(material, image[row], chess.WHITE) for image in SYMMETRIES]
            assert len({env.state_text(board) for board in boards}) == 1
            shown = env.shown(boards[0])
            assert shown.king(chess.BLACK) in TRIANGLE
            assert env.shown(shown) == shown
            for board in boards:
                for move in list(board.legal_moves)[::5]:
                    action = env.action_text(board, move)
                    meant = env.read_action(board, action)
                    # In a position with a symmetry of its own, the image of a move is meant too.
                    after = [board.copy(), board.copy()]
                    after[0].push(move)
                    after[1].push(meant)
                    assert env.state_text(after[0]) == env.state_text(after[1])


def test_an_action_is_read_in_the_view_that_was_shown():
    env = envs.make("endgames", format="mirrored")
    # The black king on g8 is shown on b1: mirrored up and left, ranks and files count backwards.
    text, _ = env.reset(options={"position": "6k1/8/5K2/8/8/8/8/3Q4 w - - 0 1"})
    assert text == "Kc3 Qe8 kb1\n"
    env.step("Qe1\n")
    assert env.board.piece_at(chess.D8) == chess.Piece(chess.QUEEN, chess.WHITE)
    assert env.step("d8")[4]["valid"] is False


def test_every_character_of_a_game_is_among_the_texts():
    env = envs.make("endgames")
    known = set("".join(env.texts))
    assert all(set("".join(game)) <= known for game in envs.generate("endgames", 50, 0)["text"])


@pytest.mark.parametrize("material", MATERIALS)
def test_the_perfect_player_mates_in_the_distance_of_the_table(material):
    starts = start_positions(material, 60, np.random.default_rng(1))
    games = play_games(
        [(material, row) for row in starts], PerfectPlayer(0), Defender("perfect", 0)
    )
    lengths = [len(reward) // 2 for reward in games["reward"]]
    assert lengths == table(material).white_distance(starts).tolist()
    assert all(sum(reward) == 1 for reward in games["reward"])


@pytest.mark.parametrize("kind", [PerfectPlayer, MixturePlayer])
@pytest.mark.parametrize("format", Endgames.formats)
def test_players_play_by_text(kind, format):
    player = kind(3, format)
    env = envs.make("endgames", format=format, max_moves=20)
    histories = []
    for seed in range(8):
        histories.append(env.reset(seed=seed)[0])
    actions = player.act(histories)
    for seed, action in enumerate(actions):
        env.reset(seed=seed)
        assert env.step(action)[4]["valid"]
        if kind is PerfectPlayer:
            board = chess.Board(env.reset(seed=seed)[1]["position"])
            material, squares = read_board(board)
            board.push(env.read_action(board, action))
            after = table(material).black_distance(read_board(board)[1])[0]
            assert after == table(material).white_distance(squares)[0] - 1


def test_evaluation_plays_the_held_out_positions():
    positions = test_positions()
    options = [{"position": position} for position in positions]
    env = envs.make("endgames", format="pieces")
    result = evaluate(PerfectPlayer(0, "pieces"), env, 645, seed=0, options=options)
    assert result.mean == result.success == 1
    for position, length in zip(positions[::40], result.lengths[::40], strict=True):
        material, squares = read_board(chess.Board(position))
        assert table(material).white_distance(squares)[0] == length


def test_the_default_data_wins_as_often_as_that_of_lmrl_gym():
    dataset = envs.generate("endgames", 3000, 0)
    returns = np.array([sum(reward) for reward in dataset["reward"]])
    assert returns.mean() == pytest.approx(0.586, abs=4 * 0.5 / np.sqrt(3000))
    assert set(returns) == {0.0, 1.0}
    assert all(dataset["done"])


def test_the_mixture_has_its_weights():
    squares = np.tile(start_positions("R", 1, np.random.default_rng(3)), (20_000, 1))
    moves = white_moves("R", squares)
    player = MixturePlayer(0, behavior={"perfect": 3, "random": 1})
    share = np.bincount(player.choose("R", squares, moves), minlength=36) / 20_000
    best = np.bincount(
        PerfectPlayer(0).choose("R", squares[:500], moves_of(moves, 500)), minlength=36
    )
    expected = 0.75 * (best > 0) / (best > 0).sum() + 0.25 * moves[2][0] / moves[2][0].sum()
    np.testing.assert_allclose(share, expected, atol=5 * np.sqrt(0.25 / 20_000))


def moves_of(moves, n):
    return moves[0], moves[1][:n], moves[2][:n]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opponent": "perfct"}, "did you mean 'perfect'"),
        ({"materials": ["QQ"]}, "material 'QQ'"),
        ({"materials": []}, "materials"),
        ({"format": "pieces "}, "did you mean 'pieces'"),
        ({"behavior": {"perfect": float("nan")}}, "weights"),
        ({"max_moves": 0}, "max_moves"),
    ],
)
def test_wrong_options_of_the_generator_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        envs.generate("endgames", 1, 0, **options)


def test_random_play_seldom_wins_with_a_rook():
    starts = start_positions("R", 300, np.random.default_rng(1))
    player = MixturePlayer(0, behavior={"random": 1})
    games = play_games([("R", row) for row in starts], player, Defender("perfect", 0))
    assert np.mean([sum(reward) for reward in games["reward"]]) < 0.05
    assert left("QR", 0) == "R" and left("R", 0) == ""
