"""Whole games of chess against Stockfish at its least strength, as a study.

    python -m qsft_lite.study chess --profile record

Needs Stockfish (`apt install stockfish`). A man is a word, and a move is two (format "pieces");
each turn is seen alone. Before all else the network learns the rules, and cloning goes on with
them, see `learn_rules`; all methods begin with that clone. The last of the recorded games are not
trained on: what the networks say of them is measured.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import inspect
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import chess
import numpy as np
from datasets import Dataset
from scipy import stats
from transformers import AutoModelForCausalLM, PreTrainedModel, TrainerCallback

from qsft_lite.baselines import METHODS, TrainedMethod
from qsft_lite.data import RewardScale, cut_turns, encode, start_id
from qsft_lite.evaluate import Evaluation, evaluate
from qsft_lite.files import replace_folder
from qsft_lite.models import share_embeddings, small_model, word_tokenizer
from qsft_lite.policy import LastLine
from qsft_lite.results import project_root
from qsft_lite.study import Settings, Task
from qsft_lite.study.rows import ROWS as SHARED_ROWS
from qsft_lite.study.rows import Row
from qsft_lite.study.task import TEST_SEED, all_over
from qsft_lite.tasks.chess import learn_rules
from qsft_lite.tasks.chess.data import as_pieces, generate_chess
from qsft_lite.tasks.chess.env import ChessGame
from qsft_lite.tasks.chess.learn_rules import (
    Position,
    batches,
    divergence,
    learn,
    position,
    surprise,
    wander,
)
from qsft_lite.tasks.chess.text import parts, unspaced

__all__ = ["PROFILES", "ROWS", "TASK", "ChessSettings", "ChessTask"]


def _with_pi_as_it_is(row: Row) -> Row:
    """The row, whose method does not train pi along."""
    options = {**METHODS[row.method].options, **row.options}
    if not options.get("train_behavior"):
        return row
    return dataclasses.replace(row, options={**row.options, "train_behavior": False})


# pi stays as it is: on recorded moves alone it would forget the rules. So would the two methods
# that clone them again, filtered and return-conditioned cloning, which are left out.
ROWS = {
    key: _with_pi_as_it_is(row)
    for key, row in SHARED_ROWS.items()
    if METHODS[row.method].family != "cloning"
}
BATCH = 64  # lessons; in cloning there are about as many recorded moves beside them


@dataclasses.dataclass(frozen=True)
class ChessSettings(Settings):
    """Settings of chess.

    measured_games: so many games, the last ones, are measured on. nodes: of every search; the
    protocol's 100 ms a move cannot be repeated exactly. rules_steps, rules_learning_rate: see
    learn_rules. longest_game: moves after which a game at play is cut off.
    """

    games: int = 6_500
    measured_games: int = 20
    nodes: int = 10_000
    layers: int = 3
    width: int = 128
    rules_steps: int = 12_000
    rules_learning_rate: float = 1.5e-3
    behavior_epochs: float = 0.3
    learning_rate: float = 3e-4
    batch_rows: int = 16
    row_tokens: int = 246
    value_epochs: float = 0.2
    value_learning_rate: float = 1e-4
    seeds: int = 1
    validation_games: int = 100
    longest_game: int = 400

    def with_few(self, games: int) -> ChessSettings:
        """See Settings.with_few; the rules are not learned for an estimate."""
        return dataclasses.replace(super().with_few(games), rules_steps=1, measured_games=1)


PROFILES = {
    "smoke": ChessSettings(
        games=12,
        measured_games=2,
        nodes=50,
        rules_steps=3,
        layers=1,
        width=16,
        validation_games=2,
        test_games=3,
        longest_game=4,
    ),
    "laptop": ChessSettings(games=1_000, rules_steps=4_000, test_games=200),
    "record": ChessSettings(),
    "gpu": ChessSettings(games=625_000, layers=8, width=512, batch_rows=64, bf16=True, seeds=3),
}


class ChessTask(Task):
    """One seed of whole games."""

    lowest, best = -400, "Every game won"  # lowest: every move illegal

    def __init__(self, settings: ChessSettings, seed: int):
        super().__init__(settings, seed)
        self.acts = {"max_new_tokens": 2}
        self.env = ChessGame(format="pieces", nodes=settings.nodes, max_moves=settings.longest_game)
        self.tokenizer = word_tokenizer(self.env.texts)
        # Games of an engine are slow to make, and are kept for all studies.
        self.folder = project_root() / "build" / "chess_data"

    @cached_property
    def all_games(self) -> Dataset:
        """The recorded games, also those that are measured on."""
        settings = self.settings
        return generate_chess(
            settings.games,
            self.seed,
            nodes=settings.nodes,
            processes=os.cpu_count() or 1,
            path=self.folder / f"{settings.games}_{settings.nodes}_{self.seed}",
        )

    @property
    def data_mean(self) -> float:
        """Of all of them."""
        return float(np.mean([sum(reward) for reward in self.all_games["reward"]]))

    def recorded(self, games: int, part: str) -> Dataset:
        """See Task.recorded; only the "held out" part, which is measured on, is another."""
        count = len(self.all_games)
        kept = count - self.settings.measured_games
        if part == "held out":
            return self.all_games.select(range(kept, count))
        # Those that were cut off at their last move count as drawn.
        return all_over(as_pieces(self.all_games.select(range(kept))))

    def encoded(self, games: Dataset) -> Dataset:
        """See Task.encoded."""
        scale = RewardScale(-1, 1)
        turns = encode(games, self.tokenizer, scale=scale, discount="turn", memory="turn")
        return cut_turns(turns, self.settings.row_tokens)

    @cached_property
    def moves(self) -> list[tuple[str, str]]:
        """Boards, as texts, and what was played there."""
        return [
            (row[i], row[i + 1]) for row in self.games["text"] for i in range(0, len(row) - 1, 2)
        ]

    def new_model(self) -> PreTrainedModel:
        """A model fitted to the legal moves of these games' positions; kept in the folder."""
        names = ("games", "nodes", "layers", "width", "rules_steps", "rules_learning_rate")
        # The code is part of the name: a network that other code has taught is not this one.
        taught_by = [learn_rules, ChessTask._lesson, ChessTask._state, ChessTask._words]
        code = "".join(inspect.getsource(part) for part in taught_by)
        code = hashlib.sha256(code.encode()).hexdigest()[:8]
        kept = (
            self.folder
            / "rules"
            / "_".join([*(str(getattr(self.settings, name)) for name in names), code])
        )
        kept = kept / f"seed{self.seed}"
        if not kept.exists():
            words = {word: parts(word) for word in self.env.texts}
            size = {name: getattr(self.settings, name) for name in ("layers", "width", "heads")}
            model = small_model(self.tokenizer, **size, context=48, seed=self.seed)
            share_embeddings(model, self.tokenizer, words, seed=self.seed)
            lessons = batches(self._lesson, BATCH, np.random.default_rng(self.seed))
            steps, rate = self.settings.rules_steps, self.settings.rules_learning_rate
            learn(model, divergence, lessons, steps=steps, rate=rate)
            with replace_folder(kept) as aside:
                model.save_pretrained(aside)
        return AutoModelForCausalLM.from_pretrained(kept)

    def clone(
        self, folder: str | Path | None = None, callbacks: Sequence[TrainerCallback] = ()
    ) -> TrainedMethod:
        """Cloning that goes on with the rules."""
        rng = np.random.default_rng([self.seed, 1])
        epochs = self.settings.behavior_epochs
        steps = max(round(epochs * len(self.moves) / BATCH), 1)
        model, drawn = copy.deepcopy(self.model), batches(self._lesson_or_move, 2 * BATCH, rng)
        learn(model, surprise, drawn, steps=steps, rate=self.settings.learning_rate)
        return TrainedMethod.cloned(model, self.tokenizer)

    def _lesson(self, rng: np.random.Generator) -> Position:
        """A recorded position, or one some random moves away, and all its legal moves."""
        recorded, _ = self.moves[rng.integers(len(self.moves))]
        board = wander(self.env.read_state(recorded), rng)
        return position(self._state(board), (self._words(board, m) for m in board.legal_moves))

    def _lesson_or_move(self, rng: np.random.Generator) -> Position:
        """A lesson, or a recorded position and the move played there."""
        if rng.random() < 0.5:
            return self._lesson(rng)
        recorded, action = self.moves[rng.integers(len(self.moves))]
        return position(self._state(self.env.read_state(recorded)), [self._tokens(action)])

    def _state(self, board: chess.Board) -> list[int]:
        return [start_id(self.tokenizer), *self.tokenizer(self.env.state_text(board))["input_ids"]]

    def policy(self, trained: TrainedMethod, **options: Any) -> LastLine:
        """See Task.policy."""
        return LastLine(super().policy(trained, **options))

    def describe(self, result: Evaluation) -> dict[str, float]:
        """Losses, illegal moves among all, and moves a game."""
        rewards = [np.array(game["reward"]) for game in result.transcripts]
        # A loss is the one move of reward -1 that ends a game.
        lost = [bool(game["done"]) and game["reward"][-2] < 0 for game in result.transcripts]
        moves = int(result.lengths.sum())
        illegal = int(sum((reward < 0).sum() for reward in rewards)) - sum(lost)
        return {
            "losses": float(np.mean(lost)),
            "illegal moves": illegal / moves,
            "moves a game": moves / len(rewards),
        }

    def levels(self) -> dict[str, float]:
        """The most that a game can return."""
        return {"Every game won": 1.0}

    def measure(self, trained: TrainedMethod) -> dict[str, float]:
        """On games that no network has seen, means over their moves.

        -log pi of the move played (nats); what pi gives to illegal moves, the same in check, and
        how often its likeliest words are one; of values, the squared error of that of the move
        played to the game's outcome on the scale of 0 to 1 (of the outcomes' mean it is their
        variance), both means, the values' deviation, and their rank correlation.
        """
        found, learned, outcomes = [], [], []
        for game in self.recorded(0, "held out"):
            texts, outcome = game["text"], (sum(game["reward"]) + 1) / 2
            for i in range(0, len(texts) - 1, 2):
                board = chess.Board(unspaced(texts[i]))
                played = self._words(board, self.env.read_action(board, texts[i + 1]))
                log_pi, value, likeliest = self._asked(trained, board, played)
                illegal = 1 - float(np.exp(list(log_pi.values())).sum())
                found.append(
                    {
                        "cross-entropy": -log_pi[played],
                        "pi of illegal moves": illegal,
                        "the same, in check": illegal if board.is_check() else np.nan,
                        "likeliest move is illegal": float(likeliest not in log_pi),
                    }
                )
                if value is not None:
                    learned.append(value)
                    outcomes.append(outcome)
        columns = {name: np.array([one[name] for one in found]) for name in found[0]}
        seen = {name: column[~np.isnan(column)] for name, column in columns.items()}
        means = {name: float(values.mean()) for name, values in seen.items() if len(values)}
        if trained.values is None:
            return means
        errors = np.array(learned) - np.array(outcomes)
        means["squared error to the outcome"] = float(np.mean(errors**2))
        means["variance of outcomes"] = float(np.var(outcomes))
        # Whether the error is one of level, of spread or of order.
        means["mean outcome"] = float(np.mean(outcomes))
        means["mean value"] = float(np.mean(learned))
        means["deviation of values"] = float(np.std(learned))
        if np.ptp(learned) and np.ptp(outcomes):
            means["rank correlation with it"] = float(stats.spearmanr(learned, outcomes).statistic)
        return means

    def _asked(
        self, trained: TrainedMethod, board: chess.Board, played: tuple[int, int]
    ) -> tuple[dict[tuple[int, int], float], float | None, tuple[int, int]]:
        """log pi of the legal moves, the value of the played one, and the likeliest two words."""
        legal = [self._words(board, move) for move in board.legal_moves]
        line = trained.prompt + self.env.state_text(board)
        ids = [start_id(self.tokenizer), *trained.tokenizer(line)["input_ids"]]
        every = list(range(len(self.tokenizer)))
        [log_man], _ = trained.values_of([ids], [every])
        men = sorted({man for man, _ in legal} | {int(log_man.argmax())})
        log_goals, values = trained.values_of([[*ids, man] for man in men], [every] * len(men))
        log_goal = dict(zip(men, log_goals, strict=True))
        log_pi = {(man, goal): float(log_man[man] + log_goal[man][goal]) for man, goal in legal}
        likeliest = int(log_man.argmax()), int(log_goal[int(log_man.argmax())].argmax())
        # The value of a last word is that of the whole move.
        value = None if values is None else float(values[men.index(played[0])][played[1]])
        return log_pi, value, likeliest

    def explorer(self, trained: TrainedMethod, options: dict[str, Any]) -> None:
        """Games of the policy, and what pi thinks of the moves."""
        from qsft_lite.tasks.chess.widgets import board_explorer, game_of

        policy = self.policy(trained, **options)
        played = evaluate(policy, self.env, 3, TEST_SEED).transcripts

        def pi(board: chess.Board) -> dict[chess.Move, float]:
            moves = list(board.legal_moves)
            words = [self._words(board, move) for move in moves]
            log_pi, _, _ = self._asked(trained, board, words[0])
            return {move: float(np.exp(log_pi[at])) for move, at in zip(moves, words, strict=True)}

        board_explorer([game_of(self.env, one) for one in played], {"pi": pi})

    def raw(self) -> dict[str, Any]:
        """Whom the games are against."""
        return {"engine": self.env.opponent.name}

    def _words(self, board: chess.Board, move: chess.Move) -> tuple[int, int]:
        """A move's two tokens: the man, and where it goes."""
        return self._tokens(self.env.action_text(board, move))

    def _tokens(self, action: str) -> tuple[int, int]:
        words = action.split(" ")
        man, goal = self.tokenizer.convert_tokens_to_ids([words[0] + " ", words[1]])
        return man, goal


TASK = ChessTask
