"""Chess: rules and rewards by hand positions and the chess package, and engines that fail."""

import contextlib
import copy
import gc
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import chess
import gymnasium
import numpy as np
import psutil
import pytest
from datasets import Dataset
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from qsft_lite import envs
from qsft_lite.data.recording import FEATURES
from qsft_lite.evaluate import evaluate
from qsft_lite.models import character_tokenizer
from qsft_lite.models.tokenizers import WORD
from qsft_lite.tasks.chess import data as chess_data
from qsft_lite.tasks.chess import engine as chess_engine
from qsft_lite.tasks.chess.data import as_pieces
from qsft_lite.tasks.chess.engine import PLACES, Engine, pick, skill_level
from qsft_lite.tasks.chess.env import ChessGame
from qsft_lite.tasks.chess.text import game_words, parts, spaced, unspaced

STOCKFISH = next(filter(shutil.which, ("stockfish", *PLACES)), None)
needs_engine = pytest.mark.skipif(not STOCKFISH, reason="no engine: apt install stockfish")
NODES = 2000


class Scripted:
    """Black's moves, given in advance."""

    def __init__(self, *sans):
        self.sans = list(sans)

    def choose(self, board, rng):
        return board.parse_san(self.sans.pop(0))


def game(position=None, *replies, **options):
    env = ChessGame(Scripted(*replies), **options)
    env.reset(options={"position": position} if position else None)
    return env


# Rules and rewards


@pytest.mark.parametrize("name", ["chess", "endgames"])
@pytest.mark.filterwarnings("ignore:.*not within a reasonable range")
def test_gymnasium_accepts_the_environment(name):
    check_env(envs.make(name, opponent="random"), skip_render_check=True)


def test_a_game_reads_as_in_lmrl_gym():
    env = envs.make("chess", opponent=Scripted("e5"))
    text, info = env.reset(seed=0)
    assert info == {"position": chess.STARTING_FEN}
    assert text == (
        "r n b q k b n r / p p p p p p p p / 8 / 8 / 8 / 8 / P P P P P P P P / R N B Q K B N R   "
        "w   K Q k q   -   0   1\n"
    )
    assert env.step("e 4\n") == (
        "r n b q k b n r / p p p p 1 p p p / 8 / 4 p 3 / 4 P 3 / 8 / P P P P 1 P P P / "
        "R N B Q K B N R   w   K Q k q   -   0   2\n",
        0.0,
        False,
        False,
        {
            "position": "rnbqkbnr/pppp1ppp/8/4p3/4P3/8/PPPP1PPP/RNBQKBNR w KQkq - 0 2",
            "success": False,
            "valid": True,
            "result": "*",
        },
    )


@pytest.mark.parametrize(
    ("position", "action", "replies", "reward", "result"),
    [
        ("6k1/5ppp/8/8/8/8/8/K3R3 w - - 0 1", "R e 8 #\n", (), 1, "1-0"),  # mate
        ("6k1/5ppp/8/8/8/8/8/K3R3 w - - 0 1", "Re8", (), 1, "1-0"),
        ("7k/8/5K2/8/8/8/8/6Q1 w - - 0 1", "Q g 6\n", (), 0, "1/2-1/2"),  # stalemate
        ("8/8/8/8/8/1k6/8/2Q4K w - - 0 1", "Q c 2 +\n", ("Kxc2",), 0, "1/2-1/2"),  # bare kings
        ("8/8/8/8/8/2k5/1r5P/K7 w - - 0 1", "K x b 2\n", (), 0, None),  # illegal: protected
        ("8/8/8/8/3k4/8/1r6/K7 w - - 0 1", "K x b 2\n", (), 0, "1/2-1/2"),
        ("k7/7P/1K6/8/8/8/8/8 w - - 0 1", "h 8 = Q #\n", (), 1, "1-0"),  # promotion
        ("7k/8/8/8/8/5b2/4r3/7K w - - 0 1", "K g 1\n", ("Re1+",), 0, "*"),
        ("3r3k/8/8/8/8/8/P5PP/7K w - - 0 1", "a 3\n", ("Rd1#",), -1, "0-1"),  # a loss
        ("8/8/8/8/8/5k2/4r3/R6K w - - 149 90", "R g 1\n", (), 0, "1/2-1/2"),  # 75 moves
    ],
)
def test_ends_and_rewards(position, action, replies, reward, result):
    env = game(position, *replies)
    text, earned, terminated, truncated, info = env.step(action)
    if result is None:
        assert (earned, info["valid"], terminated) == (-1, False, False)
        return
    assert (earned, info["result"], terminated) == (reward, result, result != "*")
    assert info["success"] == (result == "1-0") and info["valid"] and not truncated
    assert unspaced(text) == info["position"]
    if terminated:
        with pytest.raises(gymnasium.error.ResetNeeded):
            env.step(action)


def test_a_position_for_the_fifth_time_is_a_draw():
    env = game(None, *["Nf6", "Ng8"] * 5)
    for move in range(8):
        result = env.step(["Nf3", "Ng1"][move % 2])
        assert result[2] == (move == 7)
    assert result[4]["result"] == "1/2-1/2" and result[1] == 0


@pytest.mark.parametrize(
    "action",
    [
        "",
        "\n",
        "e5",  # too far
        "Nd2",  # taken
        "Kxe9",
        "--",  # a null move
        "Z0",
        "0000",
        "e 4 e 5\n",
        "N b d 2\n",
    ],
)
def test_an_illegal_move_costs_one_and_the_game_goes_on(action):
    env = game(None, "e5", max_moves=3)
    for _ in range(2):
        text, reward, terminated, truncated, info = env.step(action)
        assert unspaced(text) == info["position"] == chess.STARTING_FEN
        assert (reward, terminated, truncated) == (-1, False, False)
        assert not info["valid"] and not info["success"]
    assert env.step("e4")[3]  # the third move is the last


def test_ambiguous_san_is_illegal():
    position = "4k3/8/8/8/8/8/4K3/R6R w - - 0 1"
    for action, valid in (("R d 1\n", False), ("R a d 1\n", True), ("R h d 1\n", True)):
        assert game(position, "Ke7").step(action)[4]["valid"] == valid


def test_promotion_needs_its_piece():
    position = "8/7P/8/8/8/8/8/k1K5 w - - 0 1"
    for action, valid in (("h 8\n", False), ("h8=N", True), ("h 8 = Q +\n", True)):
        assert game(position, "Ka2").step(action)[4]["valid"] == valid


@pytest.mark.parametrize(
    ("name", "position", "message"),
    [
        ("chess", "nonsense", "not a FEN"),
        ("chess", 5, "not a FEN"),
        ("chess", "8/8/8/8/8/8/8/8 w - - 0 1", "no position of chess"),
        ("chess", "4k3/8/8/8/8/8/8/4K2R b - - 0 1", "Black to move"),
        ("chess", "4k3/4R3/8/8/8/8/8/4K3 w - - 0 1", "no position of chess"),  # Black in check
        ("chess", "4k3/8/8/8/8/8/8/4K3 w - - 0 1", "over already"),
        ("endgames", chess.STARTING_FEN, "not one of the endgames"),
        ("endgames", "4k3/8/8/8/8/8/8/QQ2K3 w - - 0 1", "not one of the endgames"),
        ("endgames", "q3k3/8/8/8/8/8/8/Q3K3 w - - 0 1", "not one of the endgames"),
        ("endgames", "4k3/8/8/8/8/8/8/R3K3 w Q - 0 1", "castling"),
    ],
)
def test_a_bad_position_is_named(name, position, message):
    with pytest.raises(ValueError, match=message):
        envs.make(name, opponent="random").reset(options={"position": position})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("chess", {"opponent": "perfect"}, "unknown opponent 'perfect'"),
        ("chess", {"opponent": "randm"}, "did you mean 'random'"),
        ("chess", {"opponent": "random", "max_moves": 0}, "max_moves"),
        ("endgames", {"format": "pices"}, "did you mean 'pieces'"),
        ("endgames", {"materials": "P"}, "material"),
    ],
)
def test_wrong_options_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        envs.make(name, **options)
    with pytest.raises(ValueError, match="'secret'"):
        envs.make(name, opponent="random").reset(options={"secret": 1})


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_random_games_are_games_of_the_chess_package(seed):
    env = envs.make("chess", opponent="random", max_moves=60)
    text, _ = env.reset(seed=seed)
    rng = np.random.default_rng(seed)
    tokenizer = character_tokenizer(env.texts)
    total, truncated, terminated = 0.0, False, False
    while not (terminated or truncated):
        board = chess.Board(unspaced(text))
        assert env.read_state("before\n" + text) == board
        action = env.action_text(board, rng.choice(list(board.legal_moves)))
        text, reward, terminated, truncated, info = env.step(action)
        total += reward
        for segment in (action, text):
            assert tokenizer.decode(tokenizer(segment)["input_ids"]) == segment
        assert info["valid"] and unspaced(text) == info["position"]
    assert total == {"1-0": 1, "0-1": -1}.get(info["result"], 0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_games_in_words_are_the_same_games(seed):
    """Every legal move on the way has its own words, and the words of a line give the board."""
    env, spelled = (
        envs.make("chess", opponent="random", max_moves=40, format=form)
        for form in ("pieces", "fen")
    )
    rng = np.random.default_rng(seed)
    known = set(env.texts)
    text, _ = env.reset(seed=seed)
    rows = {"text": [text], "is_action": [False], "reward": [0.0]}
    letters = [spelled.state_text(env.board)]
    over = False
    while not over:
        board = env.board
        shown = env.read_state("before\n" + text)
        assert shown.board_fen() == board.board_fen() and shown.castling_rights == (
            board.clean_castling_rights()
        )
        assert shown.ep_square == (board.ep_square if board.has_legal_en_passant() else None)
        moves = list(board.legal_moves)
        words = [env.action_text(board, move) for move in moves]
        assert len(set(words)) == len(words)
        for word in words:
            man, goal = re.findall(WORD, word)
            assert man in text.replace("\n", " ") and known.issuperset((man, goal))
            assert word in env.action_space and text in env.observation_space
        assert [env.read_action(board, word) for word in words] == moves
        assert known.issuperset(word + " " for word in text[:-1].split(" ")[:-1])
        chosen = rng.integers(len(moves))
        letters.append(spelled.action_text(board, moves[chosen]))
        text, reward, terminated, truncated, info = env.step(words[chosen])
        assert info["valid"]
        letters.append(spaced(info["position"]))
        rows["text"] += [words[chosen], text]
        rows["is_action"] += [True, False]
        rows["reward"] += [reward, 0.0]
        over = terminated or truncated
    rows["done"] = terminated
    recorded = Dataset.from_list([{**rows, "text": letters}], FEATURES)
    assert as_pieces(recorded).to_list() == [rows]


def test_special_moves_have_words():
    cases = {
        "r3k2r/8/8/8/8/8/8/R3K2R w KQkq - 0 1": {"Ke1 g1\n", "Ke1 c1\n", "Ke1 d1\n", "Ra1 a8\n"},
        "1n5k/P7/8/8/8/8/8/K7 w - - 0 1": {"Pa7 a8Q\n", "Pa7 a8N\n", "Pa7 b8R\n", "Ka1 b1\n"},
        "7k/8/8/3pP3/8/8/8/K7 w - d6 0 1": {"Pe5 d6\n", "Pe5 e6\n"},
    }
    known = set(ChessGame(Scripted(), format="pieces").texts)
    for position, words in cases.items():
        env = game(position, format="pieces")
        assert words <= {env.action_text(env.board, move) for move in env.board.legal_moves}
        assert known.issuperset(word for text in words for word in re.findall(WORD, text))
    assert env.state_text(env.board) == "d6 Ka1 Pe5 pd5 kh8\n"
    env = game("7k/P7/8/8/8/8/8/K7 w - - 0 1", "Kg7", format="pieces")
    text, reward, *_ = env.step("Pa7 a9\n")  # no move: the position again
    assert (text, reward) == ("Ka1 Pa7 kh8\n", -1)
    assert env.step("Pa7 a8R\n")[0] == "Ka1 Ra8 kg7\n"
    with pytest.raises(ValueError, match="'Xa1' is no piece"):
        env.read_state("Xa1 kh8\n")
    illegal = {"text": [spaced(chess.STARTING_FEN), spaced("e5"), spaced(chess.STARTING_FEN)]}
    illegal |= {"is_action": [False, True, False], "reward": [0.0, -1.0, 0.0], "done": False}
    with pytest.raises(ValueError, match="row 0: 'e 5.n' is no legal move"):
        as_pieces(Dataset.from_list([illegal], FEATURES))


def test_clones_play_on_their_own():
    env = envs.make("endgames")
    env.reset(seed=1)
    other, third = env.clone(), copy.deepcopy(env)
    assert env.reset(seed=5)[0] == other.reset(seed=5)[0] == third.reset(seed=5)[0]
    before = other.board.fen()
    env.step(env.action_text(env.board, next(iter(env.board.legal_moves))))
    assert other.board.fen() == before


def test_seeds_decide_positions_and_replies():
    class FirstMove:
        def act(self, histories):
            boards = [chess.Board(unspaced(text.split("\n")[-2])) for text in histories]
            return [spaced(board.san(next(iter(board.legal_moves)))) for board in boards]

    env = envs.make("endgames", max_moves=6)
    one, two = (evaluate(FirstMove(), env, 12, 3, batch=batch) for batch in (12, 5))
    assert one.transcripts == two.transcripts


def test_words_share_men_files_ranks_and_squares():
    named = {word: set(parts(word)) for word in game_words()}
    assert len(set(map(frozenset, named.values()))) == len(named)  # no two start alike
    man = named["Nd4 "]
    assert len(man & named["Nd5 "]) == 2 and len(man & named["Ne4 "]) == 2  # knight, and line
    assert len(man & named["Ne5 "]) == 1 and len(man & named["Bd4 "]) == 1
    assert man & named["d4\n"] == man & named["Bd4 "] == {("square", "d4", 0)}
    assert not named["KQ "] & set().union(*(own for word, own in named.items() if word != "KQ "))


# The engine


def fake_engine(folder, name="fake", elo=False, body="", start=""):
    """An engine that plays its first legal move, and logs what it is told beside itself.

    body runs when it is asked for a move, start when it starts.
    """
    path = folder / name
    path.write_text(
        f"#!{sys.executable}\n"
        + textwrap.dedent(
            """
            import os, sys, time
            import chess
            board = chess.Board()
            START
            for line in sys.stdin:
                with open(sys.argv[0] + ".log", "a") as log:
                    log.write(line)
                words = line.split()
                if words[0] == "uci":
                    print("id name Fake 1")
                    print(ELO)
                    print("option name UCI_LimitStrength type check default false")
                    print("option name Threads type spin default 4 min 1 max 512")
                    print("option name MultiPV type spin default 1 min 1 max 500")
                    print("uciok")
                elif words[0] == "isready":
                    print("readyok")
                elif words[0] == "position":
                    board = chess.Board() if words[1] == "startpos" else chess.Board(line[13:])
                elif words[0] == "go":
                    BODY
                    move = next(iter(board.legal_moves)).uci()
                    print("info depth 1 multipv 1 score cp 0 pv", move)
                    print("bestmove", move)
                elif words[0] == "quit":
                    break
                sys.stdout.flush()
            """
        )
        .replace("ELO", repr("option name UCI_Elo type spin default 3190 min 1320 max 3190"))
        .replace("BODY", body or "pass")
        .replace("START", start or "pass")
    )
    if not elo:
        path.write_text(path.read_text().replace("option name UCI_Elo", "option name Other"))
    path.chmod(0o755)
    return path


def told(path):
    """The lines that a fake engine was sent."""
    return path.with_name(path.name + ".log").read_text().splitlines()


def engines_running():
    """Our children that are engines; multiprocessing has others."""
    names = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    return [name for name in names if "multiprocessing" not in name]


def test_an_engine_plays_black(tmp_path):
    env = envs.make("chess", engine=fake_engine(tmp_path), elo="full", nodes=1)
    env.reset()
    text, *_ = env.step("e4")
    assert unspaced(text).split()[1:] == ["w", "KQkq", "-", "1", "2"]
    assert env.opponent.pid
    env.close()
    assert env.opponent.pid is None
    assert env.step("d4")[4]["valid"]  # started again
    env.close()


def test_an_engine_that_dies_or_hangs_once_is_asked_again(tmp_path):
    flag = tmp_path / "failed"
    for name, failure in (("dies", "os._exit(1)"), ("hangs", "time.sleep(60)")):
        flag.unlink(missing_ok=True)
        body = f"if not os.path.exists({str(flag)!r}): open({str(flag)!r}, 'w').close(); {failure}"
        path = fake_engine(tmp_path, name, body=body)
        with Engine(path, "full", nodes=1, timeout=1) as engine:
            board = chess.Board()
            assert engine.choose(board, np.random.default_rng(0)) in board.legal_moves
            assert flag.exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("os._exit(1)", "failed 3 times at 'rnbq"),
        ("time.sleep(60)", "failed 3 times at 'rnbq.*raise timeout, now 1 seconds"),
    ],
)
def test_an_engine_that_always_fails_is_given_up(tmp_path, body, message):
    with Engine(fake_engine(tmp_path, body=body), "full", nodes=1, timeout=1) as engine:
        with pytest.raises(RuntimeError, match=message):
            engine.choose(chess.Board(), np.random.default_rng(0))
    assert not engines_running()


def test_a_killed_engine_leaves_no_traceback(tmp_path, capfd, caplog):
    """Neither one that was killed between two moves, nor one that hung in a search."""
    board, rng = chess.Board(), np.random.default_rng(0)
    flag = tmp_path / "hang"
    body = f"time.sleep(60 if os.path.exists({str(flag)!r}) else 0)"
    with Engine(fake_engine(tmp_path, elo=True, body=body), nodes=1, timeout=0.5) as engine:
        for delay in (0, 0.01):
            engine.choose(board, rng)
            os.kill(engine.pid, signal.SIGKILL)
            time.sleep(delay)
            assert engine.choose(board, rng) in board.legal_moves
        flag.touch()
        with pytest.raises(RuntimeError, match="failed 3 times"):
            engine.choose(board, rng)
    gc.collect()
    assert "Traceback" not in capfd.readouterr().err
    assert {record.name for record in caplog.records} <= {"qsft_lite.tasks.chess.engine"}


def test_a_start_that_fails_is_tried_again(tmp_path):
    flag = tmp_path / "broken"
    start = f"if os.path.exists({str(flag)!r}): os.remove({str(flag)!r}); os._exit(1)"
    path = fake_engine(tmp_path, start=start)
    board, rng = chess.Board(), np.random.default_rng(0)
    with Engine(path, "full", nodes=1) as engine:
        flag.touch()
        assert engine.choose(board, rng) in board.legal_moves
        assert not flag.exists()
        engine.close()
        path.write_text("#!/bin/sh\nexit 0\n")
        with pytest.raises(RuntimeError, match="failed 3 times at .* does not start as a UCI"):
            engine.choose(board, rng)
    assert not engines_running()


def test_a_program_that_is_no_engine_is_named(tmp_path):
    path = tmp_path / "cat"
    path.write_text("#!/bin/sh\nexit 0\n")
    path.chmod(0o755)
    with pytest.raises(RuntimeError, match="does not start as a UCI engine"):
        Engine(path)


def test_without_an_engine_chess_says_what_to_install(monkeypatch):
    monkeypatch.setattr(chess_engine, "PLACES", ())
    monkeypatch.setenv("PATH", "")
    for call in (
        lambda: envs.make("chess"),
        lambda: envs.generate("chess", 1, 0),
        lambda: envs.make("endgames", opponent="engine"),
    ):
        with pytest.raises(FileNotFoundError, match="apt install stockfish"):
            call()
    with pytest.raises(FileNotFoundError, match="No engine at nowhere"):
        envs.make("chess", engine="nowhere")
    assert envs.make("endgames").reset(seed=0)  # these need none
    assert envs.generate("endgames", 2, 0)


def test_an_elo_out_of_range_is_refused(tmp_path):
    path = fake_engine(tmp_path, elo=True)
    for elo in (1200, 3191, "flor", 1500.5):
        with pytest.raises(ValueError, match="between 1320 and 3190, the range of Fake 1"):
            Engine(path, elo)
    assert Engine(path).elo == 1320 and Engine(path, 1500).elo == 1500
    assert Engine(path, "full").elo is None
    with pytest.raises(ValueError, match="no UCI_Elo"):
        Engine(fake_engine(tmp_path, "other"))
    path.write_text(path.read_text().replace("MultiPV", "Lines"))
    with pytest.raises(ValueError, match="no MultiPV"):
        Engine(path, nodes=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nodes": 1, "milliseconds": 1}, "not both"),
        ({"nodes": 0}, "nodes must"),
        ({"milliseconds": -1}, "milliseconds must"),
        ({"timeout": 0}, "timeout must be more than 0 seconds, got 0"),
        ({"timeout": -1.0}, "timeout must"),
        ({"timeout": float("nan")}, "timeout must"),
    ],
)
def test_wrong_limits_are_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        Engine(fake_engine(tmp_path), "full", **options)


def test_one_process_plays_at_several_strengths(tmp_path):
    engine = Engine(fake_engine(tmp_path, elo=True), nodes=1)
    strong = engine.at("full")
    engine.choose(chess.Board(), np.random.default_rng(0))
    assert (strong.elo, engine.elo, strong.pid) == (None, 1320, engine.pid)
    del engine
    strong.choose(chess.Board(), np.random.default_rng(0))
    assert len(engines_running()) == 1
    del strong
    assert not engines_running()
    with pytest.raises(ValueError, match="between 1320"):
        Engine(fake_engine(tmp_path, elo=True), nodes=1).at(1)
    with pytest.raises(ValueError, match="node limit"):
        Engine(fake_engine(tmp_path, elo=True)).at("full")


def test_the_handicap_picks_among_the_best_moves():
    assert skill_level(1350) < 0.1 and skill_level(3000) == 20
    rng = np.random.default_rng(0)
    scores = [60, 50, -20, -400]
    weak = [pick(scores, 0, rng.integers(2**32, size=4)) for _ in range(2000)]
    strong = [pick(scores, 15, rng.integers(2**32, size=4)) for _ in range(2000)]
    assert np.mean(weak) > np.mean(strong)
    # the rule by hand: push = (120 * deficit + 126 * (noise mod 120)) // 128
    assert pick([60, 50], 0, np.array([0, 0])) == 0  # 60 and 50 + 9
    assert pick([60, 50], 0, np.array([0, 119])) == 1  # 60 and 50 + (1200 + 10 * 119) // 128
    assert pick([60], 0, np.array([7])) == 0


@needs_engine
def test_a_dead_or_hung_stockfish_is_replaced_in_mid_game():
    played = []
    for failure in (None, signal.SIGKILL, signal.SIGSTOP):
        env = envs.make("chess", engine=STOCKFISH, nodes=NODES, timeout=1)
        texts = [env.reset(seed=0)[0]]
        for move, action in enumerate(("e4", "d4", "Nc3", "a3")):
            texts.append(env.step(action)[0])
            if move == 1 and failure:
                os.kill(env.opponent.pid, failure)
        env.close()
        played.append(texts)
    assert played[0] == played[1] == played[2]
    assert not engines_running()


@needs_engine
@pytest.mark.parametrize(
    "end", ["pass", "raise SystemExit(1)", "del env", "os.kill(os.getpid(), 9)"]
)
def test_no_engine_outlives_python(end):
    code = f"""
import os
from qsft_lite import envs
env = envs.make("chess", engine={STOCKFISH!r}, nodes=10)
env.reset(seed=0)
env.step("e4")
print(env.opponent.pid, flush=True)
{end}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    pid = int(done.stdout)
    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.05)
    pytest.fail(f"the engine still runs: {done.stderr}")


def test_a_move_whose_reply_fails_was_not_made():
    class Failing:
        name = "failing"
        attempts = 0

        def choose(self, board, rng):
            self.attempts += 1
            if self.attempts == 1:
                raise RuntimeError("the engine is gone")
            return next(iter(board.legal_moves))

    env = envs.make("chess", opponent=Failing(), max_moves=2)
    state, _ = env.reset()
    with pytest.raises(RuntimeError, match="gone"):
        env.step("e4")
    assert env.state_text(env.board) == state
    _, reward, over, cut, info = env.step("e4")
    assert (reward, over, cut, info["valid"]) == (0.0, False, False, True)
    assert env.board.turn == chess.WHITE
    assert env.step("d4")[3]  # the second move: the failed one does not count


def test_the_protocol_plays_by_time(tmp_path):
    path = fake_engine(tmp_path, elo=True)
    for options, limit in (({}, "go movetime 100"), ({"milliseconds": 30}, "go movetime 30")):
        env = envs.make("chess", engine=path, **options)
        env.reset(seed=0)
        env.step("e4")
        env.close()
        lines = told(path)
        assert [line for line in lines if line.startswith("go")] == [limit]
        before = lines[: lines.index(limit)]
        # The engine forgets its options with its end, so those of the last start count.
        before = before[len(before) - before[::-1].index("uci") :]
        for option in ("Threads value 1", "UCI_LimitStrength value true", "UCI_Elo value 1320"):
            assert f"setoption name {option}" in before
        path.with_name(path.name + ".log").unlink()


@pytest.mark.parametrize(
    ("elo", "limit"), [("full", "go nodes 7"), ("floor", "go depth 1 nodes 7")]
)
def test_the_clock_does_not_limit_a_search_by_nodes(tmp_path, elo, limit):
    path = fake_engine(tmp_path, elo=True)
    with Engine(path, elo, nodes=7) as engine:
        engine.choose(chess.Board(), np.random.default_rng(0))
    assert [line for line in told(path) if line.startswith("go")] == [limit]
    assert "setoption name Threads value 1" in told(path)


@needs_engine
def test_a_slow_search_by_nodes_is_no_other_search():
    with Engine(STOCKFISH, "full", nodes=10**9, timeout=0.5) as engine:
        with pytest.raises(RuntimeError, match="failed 3 times .* raise timeout"):
            engine.choose(chess.Board(), np.random.default_rng(0))
    assert not engines_running()


@needs_engine
def test_our_handicap_is_the_engines_own():
    """On the same position the moves are those it plays itself, about as often."""
    board = chess.Board("r1bqkb1r/pppp1ppp/2n2n2/4p3/2B1P3/5N2/PPPP1PPP/RNBQK2R w KQkq - 4 4")
    rng = np.random.default_rng(0)
    counts = []
    for options in ({"milliseconds": 5}, {"nodes": 10_000}):
        with Engine(STOCKFISH, **options) as engine:
            moves = [engine.choose(board, rng).uci() for _ in range(200)]
        counts.append({move: moves.count(move) / 200 for move in set(moves)})
    for move in set(counts[0]) | set(counts[1]):
        assert abs(counts[0].get(move, 0) - counts[1].get(move, 0)) < 0.2


# Recorded games


@needs_engine
def test_no_worker_or_engine_outlives_a_generator_that_is_killed(tmp_path):
    script = tmp_path / "games.py"
    script.write_text(
        "from qsft_lite import envs\n"
        "if __name__ == '__main__':\n"
        f"    envs.generate('chess', 10_000, 0, engine={STOCKFISH!r}, processes=2)\n"
    )
    generator = psutil.Popen([sys.executable, script])

    def alive(processes):
        """Names of those that run; a zombie has ended."""
        found = []
        for process in processes:
            with contextlib.suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline()))
        return [name for name in found if name and "resource_tracker" not in name]

    started, patience = [], time.monotonic() + 60
    while sum(STOCKFISH in name for name in alive(started)) < 2:
        assert time.monotonic() < patience and generator.is_running()
        started = generator.children(recursive=True)
        time.sleep(0.05)
    generator.kill()
    generator.wait()
    patience = time.monotonic() + 30
    while alive(started) and time.monotonic() < patience:
        time.sleep(0.05)
    assert not alive(started)


@needs_engine
def test_games_of_engines_follow_the_rules_and_their_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(chess_data, "BLOCK", 2)
    options = {"engine": STOCKFISH, "nodes": NODES, "strengths": {"floor": 1, 1500: 1}}
    options |= {"random": 0.2, "max_moves": 15}
    one = envs.generate("chess", 4, 0, **options, path=tmp_path / "games")
    again = envs.generate("chess", 4, 0, **options, processes=2)
    assert one.to_dict() == again.to_dict()
    assert one["text"][:] != envs.generate("chess", 4, 1, **options)["text"][:]
    assert not engines_running()
    for row in one:
        assert row["done"] == (len(row["text"]) < 31)
        for fen, action in zip(row["text"][:-1:2], row["text"][1::2], strict=True):
            chess.Board(unspaced(fen)).parse_san(unspaced(action))  # or ValueError
    with pytest.raises(ValueError, match="nodes=2000, not 1999"):
        envs.generate("chess", 4, 0, **{**options, "nodes": 1999}, path=tmp_path / "games")


@needs_engine
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strengths": {}}, "strengths"),
        ({"strengths": {"floor": -1}}, "strengths"),
        ({"strengths": {1200: 1}}, "between 1350"),
        ({"random": 2}, "random"),
        ({"elo": 100}, "between"),
        ({"max_moves": 0}, "max_moves"),
    ],
)
def test_wrong_options_of_the_generator_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        envs.generate("chess", 1, 0, engine=STOCKFISH, **options)


def test_integers_of_numpy_are_integers(tmp_path):
    wanted = envs.generate("endgames", 3, 5, max_moves=9, path=tmp_path / "games")
    for kind in (np.int64, np.uint8, np.int8):
        n, seed, max_moves = kind(3), kind(5), kind(9)
        for path in (tmp_path / kind.__name__, tmp_path / "games", None):
            games = envs.generate("endgames", n, seed, max_moves=max_moves, path=path)
            assert games.to_dict() == wanted.to_dict()
    for kind in ("int64", "uint8", "int8"):
        found = (tmp_path / kind / "settings.json").read_bytes()
        assert found == (tmp_path / "games" / "settings.json").read_bytes()
    with pytest.raises(ValueError, match="n=3, not 4"):
        envs.generate("endgames", np.int64(4), 5, max_moves=9, path=tmp_path / "games")
