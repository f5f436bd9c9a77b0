"""Chess endgames as a study: chapter 07's longer table.

    python -m qsft_lite.study endgames --profile record
    python -m qsft_lite.study endgames --profile record --set materials="Q R QR RR"

The board is shown in one view (format "mirrored"), each turn alone: the position says everything.
Beside scores, what each method learned is compared with exact values, on validation positions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import chess
import datasets
import numpy as np
from scipy import stats
from transformers import PreTrainedModel

from qsft_lite.baselines import TrainedMethod
from qsft_lite.data import RewardScale, cut_turns, encode, start_id
from qsft_lite.evaluate import Evaluation, evaluate
from qsft_lite.models import share_embeddings, small_model, word_tokenizer
from qsft_lite.policy import LastLine
from qsft_lite.study import Settings, Task
from qsft_lite.study.task import TEST_SEED
from qsft_lite.tasks.endgames.data import generate_endgames
from qsft_lite.tasks.endgames.env import Endgames, check_materials
from qsft_lite.tasks.endgames.moves import white_moves
from qsft_lite.tasks.endgames.players import BEHAVIOR, quickest
from qsft_lite.tasks.endgames.starts import test_positions, validation_positions
from qsft_lite.tasks.endgames.text import parts, read_board
from qsft_lite.tasks.endgames.values import exact_q

__all__ = ["PROFILES", "TASK", "EndgameSettings", "EndgameTask"]

PARTS = {"behavior": 1, "values": 2, "held out": 4}  # of the games, each drawn by its own seed


@dataclasses.dataclass(frozen=True)
class EndgameSettings(Settings):
    """The endgames' settings.

    materials: of "Q R QR RR", White's pieces beside its king, each a game of its own. p_perfect:
    share of the data's moves that are perfect. gamma: discount of a turn. longest_recorded,
    longest_game: moves after which a game of the data, or at play, is cut off.
    """

    materials: str = "Q"
    p_perfect: float = BEHAVIOR["perfect"]
    gamma: float = 0.9
    longest_recorded: int = 40
    longest_game: int = 400


PROFILES = {
    "smoke": EndgameSettings(
        layers=1,
        width=32,
        games=300,
        value_games=200,
        batch_rows=16,
        row_tokens=50,
        learning_rate=5e-3,
        warmup_steps=1,
        value_warmup_steps=1,
        target_rate=0.1,
        threads=1,
        seeds=1,
        validation_games=4,
        test_games=8,
        longest_game=6,
    ),
    # So many games are 550 steps of cloning and 150 of what goes on from it.
    "laptop": EndgameSettings(
        games=13_856,
        value_games=3_778,
        row_tokens=50,
        learning_rate=5e-3,
        warmup_steps=26,
        value_warmup_steps=5,
        target_rate=0.1,
        longest_recorded=400,
        threads=1,
        seeds=1,
        validation_games=50,
        test_games=162,
        longest_game=60,
    ),
    "record": EndgameSettings(
        materials="Q R",
        games=80_000,
        width=128,
        batch_rows=8,
        row_tokens=246,
        behavior_epochs=1.3,
        value_learning_rate=1e-3,  # 3e-3 spoils the values
        validation_games=300,
        test_games=645,
    ),
    "gpu": EndgameSettings(
        materials="Q R QR RR",
        games=4_000_000,
        layers=6,
        width=384,
        batch_rows=64,
        row_tokens=246,
        behavior_epochs=1.3,
        learning_rate=2e-3,
        value_learning_rate=1e-3,
        bf16=True,
        validation_games=300,
        test_games=645,
    ),
}


class EndgameTask(Task):
    """One seed of endgames."""

    lowest, best = 0.0, "Perfect"

    def __init__(self, settings: EndgameSettings, seed: int):
        super().__init__(settings, seed)
        self.acts = {"max_new_tokens": 1}
        self.materials = check_materials(settings.materials.split())
        self.behavior = {"perfect": settings.p_perfect, "random": 1 - settings.p_perfect}
        self.env = Endgames(
            materials=self.materials, format="mirrored", max_moves=settings.longest_game
        )
        men = "K" + "".join(self.materials)
        self.words = [word for word in self.env.texts if word[0].upper() in men]
        self.tokenizer = word_tokenizer(self.words)
        self.positions = {
            test: self._of_materials(
                fens, settings.test_games if test else settings.validation_games
            )
            for test, fens in ((True, test_positions()), (False, validation_positions()))
        }

    def new_model(self) -> PreTrainedModel:
        """See Task.new_model; a new network would know nothing of files and ranks."""
        settings = self.settings
        shape = {"layers": settings.layers, "width": settings.width, "heads": settings.heads}
        model = small_model(self.tokenizer, **shape, context=8, seed=self.seed)
        shared = {word: parts(word) for word in self.words}
        share_embeddings(model, self.tokenizer, shared, seed=self.seed)
        return model

    def recorded(self, games: int, part: str) -> datasets.Dataset:
        """See Task.recorded."""
        fresh = self.settings.value_games > 0
        return self.drawn(games, 1000 * self.seed + PARTS[part] if fresh else self.seed)

    def drawn(self, games: int, seed: int) -> datasets.Dataset:
        """So many games of the behavior policy, by a seed."""
        return generate_endgames(
            games,
            seed,
            materials=self.materials,
            behavior=self.behavior,
            format="mirrored",
            max_moves=self.settings.longest_recorded,
        )

    def encoded(self, games: datasets.Dataset) -> datasets.Dataset:
        """See Task.encoded; in pieces that fit a row, of one game or several.

        The data's player makes no illegal move. In a policy's own games one costs a turn, by which
        the mate is discounted, and no reward: the values would not stay in [0, 1].
        """
        if any(min(rewards) < 0 for rewards in games["reward"]):
            games = games.map(lambda game: {"reward": [max(one, 0.0) for one in game["reward"]]})
        scale = RewardScale(0, 1, "step")
        options = {"gamma": self.settings.gamma, "discount": "turn", "memory": "turn"}
        turns = encode(games, self.tokenizer, scale=scale, **options)
        return cut_turns(turns, self.settings.row_tokens)

    def _of_materials(self, fens: list[str], count: int) -> list[str]:
        """So many positions of this task's materials, evenly from all; several times if need be."""
        kept = [fen for fen in fens if read_board(chess.Board(fen))[0] in self.materials]
        spread = [i * len(kept) // count for i in range(count)]
        return [kept[place] for place in spread] if count < len(kept) else (kept * count)[:count]

    def policy(self, trained: TrainedMethod, **options: Any) -> LastLine:
        """See Task.policy."""
        return LastLine(super().policy(trained, **options))

    def starts(self, test: bool) -> list[dict[str, Any]]:
        """Held-out positions, against the perfect defender."""
        return [{"position": fen} for fen in self.positions[test]]

    @cached_property
    def unseen(self) -> np.ndarray:
        """Which test positions no game of stage one came through; none starts there."""
        trained_on = {text for texts in self.games["text"] for text in texts[::2]}
        shown = [self.env.state_text(chess.Board(fen)) for fen in self.positions[True]]
        return np.array([text not in trained_on for text in shown])

    def describe(self, result: Evaluation) -> dict[str, float]:
        """The score from unseen starts, and their share."""
        unseen = self.unseen
        score = float(result.returns[unseen].mean()) if unseen.any() else np.nan
        return {"score, unseen starts": score, "unseen starts": float(unseen.mean())}

    def raw(self) -> dict[str, Any]:
        """What each test game starts from."""
        return {"positions": self.positions[True]}

    def explorer(self, trained: TrainedMethod, options: dict[str, Any]) -> None:
        """Games from test positions, and what a method thinks of the moves beside exact values."""
        from qsft_lite.tasks.chess.widgets import board_explorer, game_of

        starts = self.starts(test=True)[:8]
        policy = self.policy(trained, **options)
        played = evaluate(policy, self.env, len(starts), TEST_SEED, options=starts).transcripts

        def learned(board: chess.Board) -> dict[chess.Move, float]:
            moves, log_pi, values = self.asked(trained, board)
            return dict(zip(moves, np.exp(log_pi) if values is None else values, strict=True))

        title = "pi" if trained.values is None else "learned value"
        exact = partial(exact_q, gamma=self.settings.gamma)
        board_explorer([game_of(self.env, one) for one in played], {title: learned, "Q*": exact})

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
        found = [self._measure_one(trained, fen) for fen in sorted(set(self.positions[False]))]
        columns = {name: np.array([one[name] for one in found]) for name in found[0]}
        seen = {name: column[~np.isnan(column)] for name, column in columns.items()}
        return {name: float(values.mean()) for name, values in seen.items() if len(values)}

    def _measure_one(self, trained: TrainedMethod, fen: str) -> dict[str, float]:
        board = chess.Board(fen)
        moves, log_pi_moves, learned = self.asked(trained, board)
        texts = [self.env.action_text(board, move) for move in moves]
        # Moves that are mirror images of each other have one text: share it, or add it up.
        shared = np.array([texts.count(text) for text in texts])
        behavior = self.behavior_of(board, moves)
        found = {
            "KL(pi_beta || pi_phi)": float(
                (behavior * (np.log(behavior * shared) - log_pi_moves)).sum()
            ),
            "pi of illegal moves": 1 - float((np.exp(log_pi_moves) / shared).sum()),
        }
        if learned is None:
            return found
        gamma = self.settings.gamma
        q_behavior = exact_q(board, behavior=self.behavior, gamma=gamma)
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

    def asked(
        self, trained: TrainedMethod, board: chess.Board
    ) -> tuple[list[chess.Move], np.ndarray, np.ndarray | None]:
        """The legal moves of a board, log pi of each, and their learned values, if any."""
        moves = list(board.legal_moves)
        texts = [self.env.action_text(board, move) for move in moves]
        actions = self.tokenizer.convert_tokens_to_ids(texts)
        text = trained.prompt + self.env.state_text(board)
        ids = [start_id(self.tokenizer), *trained.tokenizer(text)["input_ids"]]
        log_pi, values = trained.values_of([ids], [actions])
        return moves, log_pi[0], None if values is None else values[0]

    def behavior_of(self, board: chess.Board, moves: Sequence[chess.Move]) -> np.ndarray:
        """pi_beta of each legal move (N,): a perfect one, or any."""
        material, squares = read_board(board)
        slots = white_moves(material, squares)
        best = np.flatnonzero(quickest(material, squares, slots)[0])
        quick = {(int(squares[0, slots[0][s]]), int(slots[1][0, s])) for s in best}
        is_quick = np.array([(move.from_square, move.to_square) in quick for move in moves])
        shares = self.behavior["perfect"], self.behavior["random"]
        return shares[0] * is_quick / is_quick.sum() + shares[1] / len(moves)


def _rank_correlation(learned: np.ndarray, exact: np.ndarray) -> float:
    """0 where the learned values have no order, NaN where the exact ones have none."""
    if not np.ptp(exact):
        return np.nan
    return float(stats.spearmanr(learned, exact).statistic) if np.ptp(learned) else 0.0


TASK = EndgameTask
