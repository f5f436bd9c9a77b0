"""Every method on chess endgames, several seeds, the held-out positions: chapter 07's longer table.

    python -m experiments.endgames --profile record
    python -m experiments.endgames --profile record --materials Q --games 20000

The board is shown in one view (format "mirrored"), each turn alone: the position says everything.
See `experiments.study` for what is fixed before anything is seen. Beside scores, what each method
learned is compared with exact values, on the validation positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import chess
import numpy as np
from scipy import stats

from experiments.study import (
    ALONG,
    METHOD_ROWS,
    TEST_SEED,
    VALIDATION_SEED,
    Row,
    Task,
    next_logits,
    parser,
    run_study,
    start,
)
from qsft_lite.baselines import METHODS, TrainedMethod
from qsft_lite.data import RewardScale, data_hash, encode, start_id
from qsft_lite.envs import generate, make
from qsft_lite.evaluate import Evaluation, evaluate
from qsft_lite.models import share_embeddings, small_model, word_tokenizer
from qsft_lite.policy import LastLine
from qsft_lite.tasks.endgames.env import check_materials
from qsft_lite.tasks.endgames.moves import white_moves
from qsft_lite.tasks.endgames.players import BEHAVIOR, quickest
from qsft_lite.tasks.endgames.starts import test_positions, validation_positions
from qsft_lite.tasks.endgames.text import read_board
from qsft_lite.tasks.endgames.values import exact_q

RECORD = {
    "materials": "Q R",  # of "Q R QR RR": White's pieces beside its king, each a game of its own
    "games": 80_000,
    "longest game": 40,  # moves of the data's games; longer ones are cut off
    "gamma": 0.9,  # of a turn
    "layers": 2,
    "width": 128,
    "batch rows": 8,
    "row length": 246,
    "behavior epochs": 1.0,
    "value epochs": 0.3,
    "learning rate": 3e-3,
    "value learning rate": 1e-3,  # of all that goes on from the clone: 3e-3 spoils its fit
    "muon": 1,
    "target rate": 0.02,
    "seeds": 3,
    "validation games": 300,
    "test games": 645,
    "longest test game": 400,
}
SMOKE = {"materials": "Q", "games": 100, "layers": 1, "width": 16, "longest test game": 5}
PROFILES = {
    "smoke": {**RECORD, **SMOKE, "seeds": 1, "validation games": 4, "test games": 10},
    "laptop": {**RECORD, "materials": "Q", "games": 20_000, "seeds": 1},
    "record": RECORD,
    "gpu": {
        **RECORD,
        "materials": "Q R QR RR",
        "games": 4_000_000,
        "layers": 6,
        "width": 384,
        "batch rows": 64,
    },
}
ROWS: dict[str, Row] = {
    **METHOD_ROWS,
    **{
        f"Q-SFT (ours), support backup{title}": (
            "q_sft",
            {"backup": "support", "support": support, "returns_first": 0.5, **ALONG},
            ["ratio"],
        )
        # A perfect move has pi_beta .58, or a share of it, a random one about .02.
        for title, support in (("", 0.05), (", wide", 0.01), (", narrow", 0.3))
    },
}


class EndgameTask(Task):
    """One seed of endgames."""

    def __init__(self, settings: dict[str, Any], seed: int):
        super().__init__(settings, seed)
        self.acts = {"max_new_tokens": 1}
        self.materials = check_materials(settings["materials"].split())
        shared = {"materials": self.materials, "format": "mirrored"}
        self.env = make("endgames", max_moves=settings["longest test game"], **shared)
        words = [
            word for word in self.env.texts if word[0].upper() in "K" + "".join(self.materials)
        ]
        self.tokenizer = word_tokenizer(words)
        self.model = small_model(
            self.tokenizer,
            layers=settings["layers"],
            width=settings["width"],
            heads=4,
            context=8,
            seed=seed,
        )
        lines = {word: _lines(word) for word in words}
        share_embeddings(self.model, self.tokenizer, lines, seed=seed)
        games = generate(
            "endgames", settings["games"], seed, max_moves=settings["longest game"], **shared
        )
        self.data_hash = data_hash(games)
        self.data_mean = float(np.mean([sum(reward) for reward in games["reward"]]))
        self.episodes = encode(
            games,
            self.tokenizer,
            scale=RewardScale(0, 1, "step"),
            gamma=settings["gamma"],
            discount="turn",
            memory="turn",
        )
        self.starts = {
            test: self._of_materials(fens, settings["test games" if test else "validation games"])
            for test, fens in ((True, test_positions()), (False, validation_positions()))
        }
        # No recorded game starts from a held-out position, but games may have come through it.
        trained_on = {text for texts in games["text"] for text in texts[::2]}
        shown = [self.env.state_text(chess.Board(fen)) for fen in self.starts[True]]
        self.unseen = np.array([text not in trained_on for text in shown])

    def _of_materials(self, fens: list[str], count: int) -> list[str]:
        """So many positions of this task's materials, evenly from all; several times if need be."""
        kept = [fen for fen in fens if read_board(chess.Board(fen))[0] in self.materials]
        spread = [i * len(kept) // count for i in range(count)]
        return [kept[place] for place in spread] if count < len(kept) else (kept * count)[:count]

    def policy(self, trained: TrainedMethod, options: dict[str, Any]) -> LastLine:
        """See Task.policy."""
        return LastLine(super().policy(trained, options))

    def play(self, policy: Any, test: bool) -> Evaluation:
        """Games from held-out positions, against the perfect defender."""
        starts = [{"position": fen} for fen in self.starts[test]]
        seed = TEST_SEED if test else VALIDATION_SEED
        return evaluate(policy, self.env, len(starts), seed, batch=len(starts), options=starts)

    def describe(self, result: Evaluation) -> dict[str, float]:
        """The score from starts that no recorded game came through, and their share."""
        unseen = self.unseen
        score = float(result.returns[unseen].mean()) if unseen.any() else np.nan
        return {"score, unseen starts": score, "unseen starts": float(unseen.mean())}

    def levels(self) -> dict[str, float]:
        """Perfect play mates in every game."""
        return {"Perfect": 1.0}

    def measure(self, trained: TrainedMethod) -> dict[str, float]:
        """Against exact truth, on the validation positions: pi's fit, and the values' errors.

        KL(pi_beta || pi_phi) in nats a move. Of methods with values: the mean error on perfect
        moves to Q of the behavior and to Q*, mean rank correlation among the legal moves of a
        position, and what the legal move of highest value loses of Q*: in all positions and in
        those of near and far mates.
        """
        found = [self._measure_one(trained, fen) for fen in sorted(set(self.starts[False]))]
        columns = {name: np.array([one[name] for one in found]) for name in found[0]}
        seen = {name: column[~np.isnan(column)] for name, column in columns.items()}
        return {name: float(values.mean()) for name, values in seen.items() if len(values)}

    def _measure_one(self, trained: TrainedMethod, fen: str) -> dict[str, float]:
        board = chess.Board(fen)
        moves = list(board.legal_moves)
        texts = [self.env.action_text(board, move) for move in moves]
        actions = self.tokenizer.convert_tokens_to_ids(texts)
        text = trained.prompt + self.env.state_text(board)
        ids = [start_id(self.tokenizer), *trained.tokenizer(text)["input_ids"]]
        # Moves that are mirror images of each other have one text: share it, or add it up.
        behavior = _behavior(board, moves)
        log_pi = next_logits(trained.behavior, [ids])[0].log_softmax(-1)
        shared = np.array([texts.count(text) for text in texts])
        log_pi_moves = log_pi[actions].numpy()
        found = {
            "KL(pi_beta || pi_phi)": float(
                (behavior * (np.log(behavior * shared) - log_pi_moves)).sum()
            ),
            "pi of illegal moves": 1 - float(log_pi[sorted(set(actions))].exp().sum()),
        }
        if trained.values is None:
            return found
        if METHODS[trained.method].family == "heads":
            learned = next_logits(trained.values, [ids])[0][actions].numpy()
        else:
            log_p = next_logits(trained.values, [ids])[0].log_softmax(-1)[actions].numpy()
            learned = np.exp(log_p - log_pi_moves).clip(max=1)
        gamma = self.settings["gamma"]
        q_behavior = exact_q(board, behavior=BEHAVIOR, gamma=gamma)
        truths = {"Q of the behavior": q_behavior, "Q*": exact_q(board, gamma=gamma)}
        perfect = behavior >= behavior.max()
        for title, q in truths.items():
            exact = np.array([q[move] for move in moves])
            found[f"error to {title}"] = float(np.abs(learned - exact)[perfect].mean())
            found[f"rank correlation with {title}"] = _rank_correlation(learned, exact)
        lost = float(exact.max() - exact[learned.argmax()])  # of Q*
        to_mate = 1 + round(np.log(exact.max()) / np.log(gamma))
        found["lost by its best move"] = lost
        found["the same, mate in 1 to 3"] = lost if to_mate <= 3 else np.nan
        found["the same, mate in 4 to 8"] = lost if 4 <= to_mate <= 8 else np.nan
        found["the same, mate in 9 or more"] = lost if to_mate >= 9 else np.nan
        return found


def _rank_correlation(learned: np.ndarray, exact: np.ndarray) -> float:
    """0 where the learned values have no order, NaN where the exact ones have none."""
    if not np.ptp(exact):
        return np.nan
    return float(stats.spearmanr(learned, exact).statistic) if np.ptp(learned) else 0.0


def _behavior(board: chess.Board, moves: Sequence[chess.Move]) -> np.ndarray:
    """pi_beta of each legal move (N,): see endgame_players.BEHAVIOR."""
    material, squares = read_board(board)
    slots = white_moves(material, squares)
    best = np.flatnonzero(quickest(material, squares, slots)[0])
    quick = {(int(squares[0, slots[0][s]]), int(slots[1][0, s])) for s in best}
    is_quick = np.array([(move.from_square, move.to_square) in quick for move in moves])
    shares = BEHAVIOR["perfect"], BEHAVIOR["random"]
    return shares[0] * is_quick / is_quick.sum() + shares[1] / len(moves)


def _lines(word: str) -> list[tuple[str, str, int]]:
    """A man, its file and its rank; of a queen the diagonals, of a move whether it is one."""
    man, square, end = word[0], word[-3:-1], word[-1]
    file, rank = ord(square[0]) - ord("a"), int(square[1])
    lines = [(man + end, "man", 0), (man, "file", file), (man, "rank", rank)]
    if man == "Q":
        lines += [(man, "up", rank - file), (man, "down", rank + file)]
    if len(word) == 5:  # which rook
        lines.append((man, "from", ord(word[1])))
    return lines


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    command_line = parser("endgames", RECORD, "endgames_methods")
    options = vars(command_line.parse_args(arguments))
    run_study(
        start("endgames", options, PROFILES),
        options,
        ROWS,
        EndgameTask,
        lowest=0.0,
        best="Perfect",
        raw=lambda task: {"positions": task.starts[True]},
    )


if __name__ == "__main__":
    main()
