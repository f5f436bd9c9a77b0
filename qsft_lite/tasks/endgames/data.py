"""Recorded endgames: thousands played at once, by table, as trajectories."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from chess import SQUARE_NAMES
from datasets import Dataset

from qsft_lite.data.recording import Episodes, check_choice, record
from qsft_lite.tasks.chess.engine import Elo, Engine
from qsft_lite.tasks.chess.env import MAX_MOVES, BoardFormat, Endgames, check_materials, spaced
from qsft_lite.tasks.chess.opponents import OPPONENTS
from qsft_lite.tasks.endgames.moves import (
    MATERIALS,
    black_moves,
    in_check,
    left,
    move_white,
    white_moves,
)
from qsft_lite.tasks.endgames.players import (
    BEHAVIOR,
    PARTS,
    Defender,
    EndgamePlayer,
    MixturePlayer,
    Moves,
)
from qsft_lite.tasks.endgames.space import SYMMETRIES, view_of
from qsft_lite.tasks.endgames.starts import codes, placement, start_positions
from qsft_lite.tasks.endgames.values import Weights, check_weights

SEVENTY_FIVE, FIVEFOLD = 150, 5  # half-moves, times
ENGINE_BLOCK = 200  # games of a block when an engine plays


def play_games(
    starts: list[tuple[str, np.ndarray]],
    player: EndgamePlayer,
    defender: Defender,
    *,
    format: BoardFormat = "fen",
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

    def __init__(self, material: str, squares: np.ndarray, format: BoardFormat) -> None:
        self.material = material
        self.squares = squares
        self.state = {"fen": _fen_text, "pieces": _pieces_text, "mirrored": _mirrored_text}[format]
        self.spaced = format == "fen"
        self.clock = 0  # half-moves since the last capture
        self.moves = 0  # of White
        self.over = False
        self.seen: dict[tuple[str, int], int] = {}
        self.text = [self.state(material, squares.tolist(), "w", 0, 1)]
        self.reward = [0.0]
        self.count("w", int(codes(material, squares[None])[0]))

    def count(self, turn: str, code: int) -> None:
        """Note a position; the game is over when it is there for the fifth time."""
        times = self.seen.get((turn, code), 0) + 1
        self.seen[turn, code] = times
        self.over |= times >= FIVEFOLD

    def add(self, action: str, reward: float, turn: str) -> None:
        """Note a move and the position after the reply."""
        self.text.append(spaced(action) if self.spaced else action.rstrip("+#") + "\n")
        self.text.append(
            self.state(self.material, self.squares.tolist(), turn, self.clock, self.moves + 1)
        )
        self.reward += (reward, 0.0)


def _play_round(
    material: str, games: list[_Game], player: EndgamePlayer, defender: Defender, mirrored: bool
) -> None:
    """A move of White and a reply in each game, all of one material."""
    squares = np.array([game.squares for game in games])
    moves = white_moves(material, squares)
    slots = player.choose(material, squares, moves)
    if mirrored:
        view = view_of(material, squares)[:, None]
        shown_moves = moves[0], SYMMETRIES[view, moves[1]], moves[2]
        sans = _sans(material, SYMMETRIES[view, squares], shown_moves, slots)
    else:
        sans = _sans(material, squares, moves, slots)
    every = np.arange(len(games))
    after = move_white(squares, moves[0][slots], moves[1][every, slots])
    replies = black_moves(material, after)
    can_reply = replies[1].any(axis=1)
    check = in_check(material, after)
    code = codes(material, after).tolist()
    answered = []
    for i, game in enumerate(games):
        game.squares = after[i]
        game.clock += 1
        game.count("b", code[i])
        mate = bool(check[i] and not can_reply[i])
        sans[i] += "#" if mate else "+" if check[i] else ""
        if game.over or not can_reply[i]:
            game.over = True
            game.add(sans[i], float(mate), "b")
        else:
            answered.append(i)
    if not answered:
        return
    after, replies = after[answered], tuple(part[answered] for part in replies)
    steps = defender.choose(material, after, replies)
    every = np.arange(len(answered))
    after[:, -1] = replies[0][every, steps]
    taken = replies[2][every, steps].tolist()
    code = codes(material, after).tolist()
    for row, i in enumerate(answered):
        game = games[i]
        game.moves += 1
        if taken[row] >= 0:
            game.material = left(material, taken[row])
            game.squares = np.delete(after[row], 1 + taken[row])
            game.clock = 0
            game.over = not game.material
            if game.material:
                game.count("w", int(codes(game.material, game.squares[None])[0]))
        else:
            game.squares = after[row]
            game.clock += 1
            game.count("w", code[row])
            game.over |= game.clock >= SEVENTY_FIVE
        game.add(sans[i], 0.0, "w")


def _sans(material: str, squares: np.ndarray, moves: Moves, slots: np.ndarray) -> list[str]:
    """The moves in SAN, without what tells check and mate."""
    movers, targets, legal = moves
    every = np.arange(len(squares))
    mover, target = movers[slots], targets[every, slots]
    start = squares[every, mover]
    symbols = "K" + material
    sans = [symbols[column] for column in mover.tolist()]
    if material == "RR":
        other = (movers != 0) & (movers != mover[:, None])
        both = (mover > 0) & (other & legal & (targets == target[:, None])).any(axis=1)
        beside = squares[every, np.where(mover == 1, 2, 1)]
        for i in np.flatnonzero(both).tolist():
            name = SQUARE_NAMES[start[i]]
            sans[i] += name[1] if beside[i] % 8 == start[i] % 8 else name[0]
    return [san + SQUARE_NAMES[square] for san, square in zip(sans, target.tolist(), strict=True)]


def _fen_text(material: str, squares: list[int], turn: str, clock: int, number: int) -> str:
    return spaced(f"{placement(material, squares)} {turn} - - {clock} {number}")


def _pieces_text(material: str, squares: list[int], turn: str, clock: int, number: int) -> str:
    if material == "RR":
        squares = [squares[0], *sorted(squares[1:3]), squares[3]]
    men = zip(f"K{material}k", squares, strict=True)
    return " ".join(man + SQUARE_NAMES[square] for man, square in men) + "\n"


def _mirrored_text(material: str, squares: list[int], turn: str, clock: int, number: int) -> str:
    view = view_of(material, np.array([squares]))[0]
    return _pieces_text(material, SYMMETRIES[view, squares].tolist(), turn, clock, number)


def generate_endgames(
    n: int,
    seed: int,
    *,
    behavior: Weights = BEHAVIOR,
    opponent: str = "perfect",
    materials: tuple[str, ...] = MATERIALS,
    format: BoardFormat = "fen",
    max_moves: int = MAX_MOVES,
    engine: str | Path | None = None,
    elo: Elo = "floor",
    nodes: int = 10_000,
    processes: int = 1,
    path: str | Path | None = None,
) -> Dataset:
    """Endgames of a mixture of perfect, random and engine moves, from positions drawn evenly.

    behavior: weights of "perfect", "random" and "engine", drawn anew at each move; the default wins
    about as many games as LMRL-Gym's data. opponent: "perfect", "random" or "engine". materials,
    format and max_moves are those of `Endgames`; held-out positions are no starts. engine, elo and
    nodes are those of `Engine`, for White and Black. processes and path are those of `record`.
    """
    check_choice(opponent, OPPONENTS, "opponent")
    check_choice(format, Endgames.formats, "format")
    if max_moves < 1:
        raise ValueError(f"max_moves must be at least 1, got {max_moves}")
    materials = check_materials(materials)
    shares = dict(zip(PARTS, check_weights(behavior, PARTS), strict=True))
    settings: dict[str, Any] = {
        "task": "endgames",
        "behavior": shares,
        "opponent": opponent,
        "materials": list(materials),
        "format": format,
        "max_moves": max_moves,
    }
    engine_options = None
    if shares["engine"] or opponent == "engine":
        engine_options = {"engine": engine, "elo": elo, "nodes": nodes}
        with Engine(**engine_options) as checked:  # bad options fail here, not in a worker
            settings |= {"elo": checked.elo, "nodes": nodes, "engine": checked.name}
    play = partial(_play_block, shares, opponent, materials, format, max_moves, engine_options)
    block = ENGINE_BLOCK if engine_options else None
    return record(play, n, seed, settings, processes=processes, path=path, block_size=block)


def _play_block(
    shares: Weights,
    opponent: str,
    materials: tuple[str, ...],
    format: BoardFormat,
    max_moves: int,
    engine_options: dict[str, Any] | None,
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
    player = MixturePlayer(player_seed, format, shares, **(engine_options or {}))
    engine = player.engine
    if opponent == "engine" and not engine:
        engine = Engine(**engine_options)
    try:
        defender = Defender(engine if opponent == "engine" else opponent, defender_seed)
        return play_games(starts, player, defender, format=format, max_moves=max_moves)
    finally:
        if engine:
            engine.close()
