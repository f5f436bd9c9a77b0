"""The rules as the chess experiment teaches them: against a naive twin and the chess package."""

import chess
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.chess_rules import Position, batches, learn_rules, rules_loss, wander
from qsft_lite.data import start_id
from qsft_lite.envs.chess_words import game_move, game_text, game_words
from qsft_lite.models import small_model, word_tokenizer

TOKENIZER = word_tokenizer(game_words())
POSITIONS = (
    chess.STARTING_FEN,
    "r3k2r/8/8/8/8/8/8/R3K2R w KQkq - 0 1",
    "1n5k/P7/8/8/8/8/8/K7 w - - 0 1",
    "7k/8/8/3pP3/8/8/8/K7 w - d6 0 1",
)


def model(seed=0):
    return small_model(TOKENIZER, layers=2, width=16, heads=2, context=48, seed=seed)


def read(board):
    state = [start_id(TOKENIZER), *TOKENIZER(game_text(board))["input_ids"]]
    goals = {}
    for move in board.legal_moves:
        man, goal = TOKENIZER(game_move(board, move))["input_ids"]
        goals.setdefault(man, []).append(goal)
    return Position(state, goals)


def naive_divergence(network, board):
    """KL of the policy from the uniform one, each legal move written out by itself."""
    network = network.double()
    state = [start_id(TOKENIZER), *TOKENIZER(game_text(board))["input_ids"]]
    log_likely = []
    for move in board.legal_moves:
        action = TOKENIZER(game_move(board, move))["input_ids"]
        logits = network(input_ids=torch.tensor([state + action])).logits[0].log_softmax(-1)
        places = range(len(state) - 1, len(state) + len(action) - 1)
        log_likely.append(sum(float(logits[p, a]) for p, a in zip(places, action, strict=True)))
    return -np.log(len(log_likely)) - np.mean(log_likely)


@torch.no_grad()
def test_the_loss_is_the_divergence_from_uniform_legal_moves():
    boards = [chess.Board(position) for position in POSITIONS]
    together = float(rules_loss(model(), [read(board) for board in boards]))
    assert together == pytest.approx(
        np.mean([naive_divergence(model(), board) for board in boards]), rel=1e-5
    )


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


def test_batches_are_the_same_for_the_same_seed():
    boards = [chess.Board(position) for position in POSITIONS]
    first, again = (next(batches(boards, read, np.random.default_rng(3))) for _ in range(2))
    assert first == again and len(first) == 64


def test_the_rules_of_a_few_positions_can_be_learned():
    boards = [chess.Board(position) for position in POSITIONS[1:]]
    network = model()
    before = float(rules_loss(network, [read(board) for board in boards]).detach())
    learn_rules(network, boards, read, steps=100, rate=1e-2, seed=0)
    after = float(rules_loss(network, [read(board) for board in boards]).detach())
    assert before > 5 and after < 0.6 * before, (before, after)
