"""Endgames as a study: measures against exact truth, positions, and starts that were never seen."""

from types import SimpleNamespace

import chess
import numpy as np
import pytest

from qsft_lite.baselines import TrainedMethod
from qsft_lite.study import changed
from qsft_lite.study.tables import _mean
from qsft_lite.tasks.endgames.data import generate_endgames
from qsft_lite.tasks.endgames.moves import white_moves
from qsft_lite.tasks.endgames.players import BEHAVIOR, MixturePlayer
from qsft_lite.tasks.endgames.starts import test_positions as held_out
from qsft_lite.tasks.endgames.study import PROFILES, EndgameTask
from qsft_lite.tasks.endgames.text import read_board
from qsft_lite.tasks.endgames.values import exact_q

BOARD = chess.Board("8/8/8/2k5/8/8/1Q6/4K3 w - - 0 1")


def task(*changes):
    return EndgameTask(changed(PROFILES["smoke"], ["value_games=0", "games=20", *changes]), seed=0)


class Known(TrainedMethod):
    """A method with the probabilities and values, by token, that it is given for one position."""

    def values_of(self, prefixes, actions):
        assert [len(prefix) for prefix in prefixes] == [4]  # start, white king, queen, black king
        pi, q = self.settings["pi"], self.settings["q"]
        return [np.log(pi[actions[0]])], None if q is None else [q[actions[0]]]


def tokens_of(one, board):
    moves = list(board.legal_moves)
    texts = [one.env.action_text(board, move) for move in moves]
    return moves, one.tokenizer.convert_tokens_to_ids(texts)


def test_an_exact_network_measures_as_exact():
    """pi_beta counted by play, and exact Q: no divergence, no error, perfect order."""
    one = task()
    material, squares = read_board(BOARD)
    many = np.tile(squares, (40_000, 1))
    slots_moves = white_moves(material, many)
    slots = MixturePlayer(0).choose(material, many, slots_moves)
    pi, value = np.zeros((2, len(one.tokenizer)))
    exact = exact_q(BOARD, behavior=BEHAVIOR, gamma=0.9)
    for slot, count in enumerate(np.bincount(slots)):
        if count:
            start, end = squares[0, slots_moves[0][slot]], slots_moves[1][0, slot]
            move = chess.Move(int(start), int(end))
            token = one.tokenizer.convert_tokens_to_ids(one.env.action_text(BOARD, move))
            pi[token] += count / len(slots)
            value[token] = exact[move]
    found = one._measure_one(known(one, pi, value), BOARD.fen())
    assert found["KL(pi_beta || pi_phi)"] == pytest.approx(0, abs=0.003)
    assert found["pi of illegal moves"] == pytest.approx(0, abs=1e-6)
    assert found["error to Q of the behavior"] == pytest.approx(0, abs=1e-6)
    assert found["rank correlation with Q of the behavior"] == pytest.approx(1)
    assert found["error to Q*"] > 0.01
    assert found["lost by its best move"] < 0.05


def known(one, pi, q=None):
    return Known("mc_returns", {"pi": pi, "q": q}, None, q, one.tokenizer, "", [])


def test_a_network_that_knows_nothing_measures_as_that():
    one = task()
    moves, ids = tokens_of(one, BOARD)
    pi = np.full(len(one.tokenizer), 1 / len(one.tokenizer))
    found = one._measure_one(known(one, pi, np.zeros(len(pi))), BOARD.fen())
    assert found["pi of illegal moves"] == pytest.approx(1 - len(set(ids)) / len(pi))
    assert found["rank correlation with Q*"] == 0
    best = exact_q(BOARD, gamma=0.9)
    assert found["lost by its best move"] == pytest.approx(max(best.values()) - best[moves[0]])
    kinds = [found[f"the same, mate in {n}"] for n in ("1 to 3", "4 to 8", "9 or more")]
    assert sum(~np.isnan(kinds)) == 1
    without = one._measure_one(known(one, pi), BOARD.fen())
    assert list(without) == ["KL(pi_beta || pi_phi)", "pi of illegal moves"]


def test_a_share_of_perfect_moves_is_a_setting():
    one = task("p_perfect=0.75")
    moves = list(BOARD.legal_moves)
    share = one.behavior_of(BOARD, moves)
    assert share.sum() == pytest.approx(1)
    q = exact_q(BOARD, gamma=0.9)
    perfect = np.array([q[move] == max(q.values()) for move in moves])
    assert share[perfect].sum() == pytest.approx(0.75 + 0.25 * perfect.mean())
    assert (share[~perfect] == share[~perfect][0]).all()


@pytest.mark.parametrize("count", [10, 100, 200, 323, 400])
def test_positions_come_evenly_from_all_materials(count):
    one = task("materials=Q R QR RR")
    kept = one._of_materials(held_out(), count)
    counts = [sum(read_board(chess.Board(fen))[0] == m for fen in kept) for m in one.materials]
    assert sum(counts) == count and max(counts) - min(counts) <= 2
    assert len(counts) == 4 and len(set(kept)) == count


def test_unseen_starts_are_those_that_no_recorded_game_came_through():
    one = task("games=2000", "test_games=200")
    games = generate_endgames(2_000, 0, max_moves=40, materials=("Q",), format="mirrored")
    assert 0 < one.unseen.sum() < len(one.unseen)
    states = "".join(row for texts in games["text"] for row in texts[::2])
    for start, unseen in zip(one.starts(test=True), one.unseen, strict=True):
        assert (one.env.state_text(chess.Board(start["position"])) in states) != unseen
    returns = np.arange(len(one.unseen), dtype=float)
    found = one.describe(SimpleNamespace(returns=returns))
    assert found["score, unseen starts"] == returns[one.unseen].mean()
    assert found["unseen starts"] == one.unseen.mean()
    one.unseen = np.zeros_like(one.unseen)
    found = one.describe(SimpleNamespace(returns=returns))
    assert _mean([found["score, unseen starts"]] * 2) is None


def test_an_illegal_move_of_a_policy_costs_a_turn_and_no_reward():
    """In what is learned from; the data's player makes none."""
    one = task()
    games = one.games.select(
        [next(i for i, row in enumerate(one.games["reward"]) if sum(row) == 1)]
    )
    longer = games.map(
        lambda row: {
            "text": [*row["text"][:2], *row["text"]],
            "is_action": [*row["is_action"][:2], *row["is_action"]],
            "reward": [0.0, -1.0, *row["reward"]],
        }
    )
    first, second = (
        [
            to_go
            for piece in one.encoded(each)
            for to_go, acts in zip(piece["return_to_go"], piece["action_mask"], strict=True)
            if acts
        ]
        for each in (games, longer)
    )
    assert second[1:] == pytest.approx(first) and first[-1] == 1
    assert second[0] == pytest.approx(one.settings.gamma * first[0])
