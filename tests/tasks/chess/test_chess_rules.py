"""The rules as a network learns them before cloning: against a naive twin and the chess package."""

import chess
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qsft_lite.data import start_id
from qsft_lite.models import small_model, word_tokenizer
from qsft_lite.tasks.chess.learn_rules import batches, divergence, learn, position, surprise, wander
from qsft_lite.tasks.chess.text import game_move, game_text, game_words

TOKENIZER = word_tokenizer(game_words())
POSITIONS = (
    chess.STARTING_FEN,
    "r3k2r/8/8/8/8/8/8/R3K2R w KQkq - 0 1",
    "1n5k/P7/8/8/8/8/8/K7 w - - 0 1",
    "7k/8/8/3pP3/8/8/8/K7 w - d6 0 1",
)


def model(seed=0):
    return small_model(TOKENIZER, layers=2, width=16, heads=2, context=48, seed=seed)


def tokens(board):
    return [start_id(TOKENIZER), *TOKENIZER(game_text(board))["input_ids"]]


def words(board, move):
    man, goal = TOKENIZER(game_move(board, move))["input_ids"]
    return man, goal


def lesson(board):
    return position(tokens(board), (words(board, move) for move in board.legal_moves))


def naive(network, board):
    """log pi of each legal move, written out by itself."""
    network = network.double()
    state = tokens(board)
    log_likely = []
    for move in board.legal_moves:
        action = TOKENIZER(game_move(board, move))["input_ids"]
        logits = network(input_ids=torch.tensor([state + action])).logits[0].log_softmax(-1)
        places = range(len(state) - 1, len(state) + len(action) - 1)
        log_likely.append(sum(float(logits[p, a]) for p, a in zip(places, action, strict=True)))
    return np.array(log_likely)


@torch.no_grad()
def test_losses_are_those_of_all_moves_written_out():
    boards = [chess.Board(position) for position in POSITIONS]
    lessons = [lesson(board) for board in boards]
    alone = [naive(model(), board) for board in boards]
    expected = np.mean([-np.log(len(log_pi)) - log_pi.mean() for log_pi in alone])
    assert float(divergence(model(), lessons)) == pytest.approx(expected, rel=1e-5)
    expected = np.mean([-np.log(np.exp(log_pi).sum()) for log_pi in alone])
    assert float(surprise(model(), lessons)) == pytest.approx(expected, rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_wandering_ends_where_white_can_play_on(seed):
    rng = np.random.default_rng(seed)
    board = chess.Board(POSITIONS[seed % len(POSITIONS)])
    shown = board.fen()
    after = wander(board, rng)
    assert board.fen() == shown  # the recorded position stays as it is
    assert after.turn == chess.WHITE and after.is_valid() and any(after.legal_moves)


def test_wandering_shows_lost_positions_and_checks():
    ahead = chess.Board("k1b5/8/8/8/8/8/8/RRR4K w - - 0 1")
    boards = [wander(ahead, np.random.default_rng(seed)) for seed in range(300)]
    men = [sum(man.color for man in board.piece_map().values()) for board in boards]
    assert 0.1 < np.mean([count < 3 for count in men]) < 0.5
    assert 0.1 < np.mean([board.is_check() for board in boards]) < 0.5


def test_cloning_beside_lessons_keeps_the_recorded_moves_apart():
    board = chess.Board(POSITIONS[1])
    played = [words(board, chess.Move.from_uci(uci)) for uci in ("e1g1", "a1b1", "a1b1", "a1b1")]
    recorded = [position(tokens(board), [move]) for move in played]

    def drawn(rng):
        return lesson(board) if rng.random() < 0.5 else recorded[rng.integers(4)]

    network = model()
    learn(network, surprise, batches(drawn, 64, np.random.default_rng(0)), steps=150, rate=1e-2)
    with torch.no_grad():
        castles, rook = (-float(surprise(network, [recorded[i]])) for i in (0, 1))
        legal = -float(surprise(network, [lesson(board)]))
    # Half of the batches are lessons: with all legal moves alike in them, .13 and .38.
    assert np.exp([castles, rook, legal]) == pytest.approx([0.25, 0.75, 1.0], abs=0.08)


def draw(rng):
    return lesson(chess.Board(POSITIONS[1 + rng.integers(len(POSITIONS) - 1)]))


def test_batches_are_of_one_length_and_the_same_for_the_same_seed():
    first, again = (next(batches(draw, 64, np.random.default_rng(3))) for _ in range(2))
    assert first == again and len(first) == 64
    assert len({len(drawn.state) for drawn in first}) <= 2  # three of them, in 32 batches


def test_the_rules_of_a_few_positions_can_be_learned():
    lessons = [lesson(chess.Board(position)) for position in POSITIONS[1:]]
    network = model()
    before = float(divergence(network, lessons).detach())
    drawn = batches(draw, 64, np.random.default_rng(0))
    learn(network, divergence, drawn, steps=100, rate=1e-2)
    after = float(divergence(network, lessons).detach())
    assert before > 5 and after < 0.6 * before, (before, after)
