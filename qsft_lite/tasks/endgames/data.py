"""Recorded endgames: thousands played at once, by table, as trajectories."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from datasets import Dataset

from qsft_lite.data.recording import Episodes, record
from qsft_lite.tasks.checks import check_choice
from qsft_lite.tasks.chess.env import MAX_MOVES
from qsft_lite.tasks.chess.text import spaced
from qsft_lite.tasks.endgames.env import Endgames, check_materials
from qsft_lite.tasks.endgames.moves import (
    MATERIALS,
    Moves,
    black_moves,
    in_check,
    left,
    move_white,
    white_moves,
)
from qsft_lite.tasks.endgames.opponents import Defender
from qsft_lite.tasks.endgames.players import BEHAVIOR, EndgamePlayer, MixturePlayer
from qsft_lite.tasks.endgames.starts import start_positions
from qsft_lite.tasks.endgames.text import STATE_TEXTS, EndgameFormat, sans
from qsft_lite.tasks.endgames.values import Weights, check_behavior

SEVENTY_FIVE, FIVEFOLD = 150, 5  # half-moves, times


def play_games(
    starts: list[tuple[str, np.ndarray]],
    player: EndgamePlayer,
    defender: Defender,
    *,
    format: EndgameFormat = "fen",
    max_moves: int = MAX_MOVES,
) -> Episodes:
    """One game from each start, a material and its squares (k,), all at once.

    The rules are those of the environment `Endgames`, and so are the texts.
    """
    games = [_Game(material, squares, format) for material, squares in starts]
    going = games
    for _ in range(max_moves):
        groups = {material: [] for material in MATERIALS}
        for game in going:
            groups[game.material].append(game)
        for material, playing in groups.items():
            if playing:
                _play_round(material, playing, player, defender, format == "mirrored")
        going = [game for game in going if not game.over]
        if not going:
            break
    return {
        "text": [game.text for game in games],
        "is_action": [[i % 2 == 1 for i in range(len(game.text))] for game in games],
        "reward": [game.reward for game in games],
        "done": [game.over for game in games],
    }


class _Game:
    """One game under way."""

    def __init__(self, material: str, squares: np.ndarray, format: EndgameFormat) -> None:
        self.material = material
        self.squares = squares
        self.state_text = STATE_TEXTS[format]
        self.spaced = format == "fen"
        self.clock = 0  # half-moves since the last capture
        self.moves = 0  # of White
        self.over = False
        self.seen: Counter[tuple[str, frozenset]] = Counter()
        self.text: list[str] = []
        self.reward: list[float] = []
        self.count("w")
        self.show("w")

    def play_white(self, squares: np.ndarray, san: str, check: bool, stuck: bool) -> None:
        """White has moved; stuck: Black cannot reply, so it is mate or stalemate."""
        self.squares = squares
        self.clock += 1
        self.count("b")
        self.over |= stuck
        mate = check and stuck
        san += "#" if mate else "+" if check else ""
        self.text.append(spaced(san) if self.spaced else san.rstrip("+#") + "\n")
        self.reward.append(float(mate))
        if self.over:
            self.show("b")

    def play_black(self, squares: np.ndarray, taken: int) -> None:
        """Black's king has stepped, and taken that piece of White's (from 0; -1 for none)."""
        self.squares = squares
        self.clock += 1
        self.moves += 1
        if taken >= 0:
            self.material = left(self.material, taken)
            self.squares = np.delete(squares, 1 + taken)
            self.clock = 0
            self.over = not self.material  # bare kings
        self.count("w")
        self.over |= self.clock >= SEVENTY_FIVE
        self.show("w")

    def count(self, turn: str) -> None:
        """Note a position; the game is over when it is there for the fifth time."""
        men = zip(f"K{self.material}k", self.squares.tolist(), strict=True)
        position = turn, frozenset(men)  # two rooks may have changed places
        self.seen[position] += 1
        self.over |= self.seen[position] >= FIVEFOLD

    def show(self, turn: str) -> None:
        """Note what the agent sees."""
        squares, number = self.squares.tolist(), self.moves + 1
        self.text.append(self.state_text(self.material, squares, turn, self.clock, number))
        self.reward.append(0.0)


def _play_round(
    material: str, games: list[_Game], player: EndgamePlayer, defender: Defender, mirrored: bool
) -> None:
    """A move of White and a reply in each game, all of one material."""
    replies = _play_white(material, games, player, mirrored)
    going = np.array([not game.over for game in games])
    if going.any():
        games = [game for game in games if not game.over]
        _play_black(material, games, tuple(part[going] for part in replies), defender)


def _play_white(material: str, games: list[_Game], player: EndgamePlayer, mirrored: bool) -> Moves:
    """White's move in each game; what Black can reply there."""
    squares = np.array([game.squares for game in games])
    moves = white_moves(material, squares)
    slots = player.choose(material, squares, moves)
    texts = sans(material, squares, moves, slots, mirrored)
    after = move_white(squares, moves[0][slots], moves[1][np.arange(len(games)), slots])
    replies = black_moves(material, after)
    check, stuck = in_check(material, after).tolist(), (~replies[1].any(axis=1)).tolist()
    for game, *played in zip(games, after, texts, check, stuck, strict=True):
        game.play_white(*played)
    return replies


def _play_black(material: str, games: list[_Game], replies: Moves, defender: Defender) -> None:
    """Black's reply in each game."""
    after = np.array([game.squares for game in games])
    steps = defender.choose(material, after, replies)
    every = np.arange(len(games))
    after[:, -1] = replies[0][every, steps]
    for game, *played in zip(games, after, replies[2][every, steps].tolist(), strict=True):
        game.play_black(*played)


def generate_endgames(
    n: int,
    seed: int,
    *,
    behavior: Weights = BEHAVIOR,
    opponent: Literal["perfect", "random"] = "perfect",
    materials: tuple[str, ...] = MATERIALS,
    format: EndgameFormat = "fen",
    max_moves: int = MAX_MOVES,
    processes: int = 1,
    path: str | Path | None = None,
    shard: tuple[int, int] | None = None,
) -> Dataset:
    """Endgames of a mixture of perfect and random moves, from positions drawn evenly.

    behavior: weights of "perfect" and "random", drawn anew at each move; the default wins about as
    many games as LMRL-Gym's data. materials, format and max_moves are those of `Endgames`; held-out
    positions are no starts. processes, path and shard are those of `record`.
    """
    check_choice(opponent, ("perfect", "random"), "opponent")
    check_choice(format, Endgames.formats, "format")
    if max_moves < 1:
        raise ValueError(f"max_moves must be at least 1, got {max_moves}")
    materials = check_materials(materials)
    shares = check_behavior(behavior)
    settings = {
        "task": "endgames",
        "behavior": shares,
        "opponent": opponent,
        "materials": list(materials),
        "format": format,
        "max_moves": max_moves,
    }
    play = partial(_play_block, shares, opponent, materials, format, max_moves)
    return record(play, n, seed, settings, processes=processes, path=path, shard=shard)


def _play_block(
    shares: Weights,
    opponent: str,
    materials: tuple[str, ...],
    format: EndgameFormat,
    max_moves: int,
    n: int,
    seed: np.random.SeedSequence,
) -> Episodes:
    start_seed, player_seed, defender_seed = seed.spawn(3)
    rng = np.random.default_rng(start_seed)
    drawn = rng.integers(len(materials), size=n)
    starts: list[Any] = [None] * n
    for i, material in enumerate(materials):
        rows = np.flatnonzero(drawn == i)
        for row, squares in zip(rows, start_positions(material, len(rows), rng), strict=True):
            starts[row] = (material, squares)
    player = MixturePlayer(player_seed, format, shares)
    defender = Defender(opponent, defender_seed)
    return play_games(starts, player, defender, format=format, max_moves=max_moves)
