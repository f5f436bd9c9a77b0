"""A chess board with what is known of its moves: arrows colored by learned and exact values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import chess
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qsft_lite import viz
from qsft_lite.tasks.chess.env import ChessGame
from qsft_lite.viz.explorers import choice, step_through
from qsft_lite.viz.plots import HIGHLIGHT, VALUE_COLORS, ink, value_bar

LIGHT, DARK = "#f2ede2", "#d3cabb"
MOST = (("4", 4), ("8", 8), ("16", 16), ("all", 99))

MoveValues = Mapping[chess.Move, float]
Game = Sequence[tuple[chess.Board, chess.Move | None]]


def game_of(
    env: ChessGame, transcript: Mapping[str, Any]
) -> list[tuple[chess.Board, chess.Move | None]]:
    """The boards of a transcript of this environment that White had to move on, and its moves.

    None stands for a move that was illegal. Counters that the format leaves out are at their
    defaults. Raises ValueError for a transcript of another format.
    """
    turns = []
    for number, is_action in enumerate(transcript["is_action"]):
        if is_action:
            board = env.read_state(transcript["text"][number - 1])
            turns.append((board, env.read_action(board, transcript["text"][number])))
    return turns


def draw_board(
    axes: Axes,
    board: chess.Board,
    values: MoveValues | None = None,
    *,
    most: int = 8,
    played: chess.Move | None = None,
    title: str = "",
) -> None:
    """A position, and its moves as arrows colored by value, with the value where they lead.

    values: of its moves, in [0, 1]. most: so many moves of highest value are drawn, and besides the
    one that was played, with a dark rim. Raises ValueError for a move that is not legal here.
    """
    values = dict(values or {})
    for move in [*values, *([played] if played else [])]:
        if not board.is_legal(move):
            raise ValueError(f"{move.uci()} is not legal in {board.fen()!r}")
    for square in chess.SQUARES:
        file, rank = chess.square_file(square), chess.square_rank(square)
        color = DARK if (file + rank) % 2 == 0 else LIGHT
        axes.add_patch(plt.Rectangle((file - 0.5, rank - 0.5), 1, 1, facecolor=color, lw=0))
    for move in reversed(_shown(values, most, played)):
        _draw_move(axes, move, values.get(move), is_played=move == played)
    for square, piece in board.piece_map().items():
        place = chess.square_file(square), chess.square_rank(square)
        # The filled signs, for both sides: outlines of white men hardly show at this size.
        sign = chess.UNICODE_PIECE_SYMBOLS[piece.symbol().lower()]
        fill, rim = ("white", "black") if piece.color else ("black", "white")
        for color, size in ((rim, 26), (fill, 22)):
            axes.text(
                *place,
                sign,
                ha="center",
                va="center_baseline",
                fontsize=size,
                color=color,
                family="DejaVu Sans",
                zorder=5,
            )
    viz.bare(axes)
    axes.set(xlim=(-0.5, 7.5), ylim=(-0.5, 7.5), aspect="equal", title=title)
    axes.set_xticks(range(8), "abcdefgh", fontsize=9)
    axes.set_yticks(range(8), "12345678", fontsize=9)
    axes.tick_params(length=0)


def draw_values(
    board: chess.Board,
    values: Mapping[str, MoveValues],
    *,
    most: int = 8,
    played: chess.Move | None = None,
    title: str = "",
) -> Figure:
    """A board for each kind of value, two in a row, on one scale of colors from 0 to 1.

    values: by title, such as {"learned": {move: value}, "exact": {move: value}}; ValueError for
    none. The other options are those of `draw_board`; title is above all boards.
    """
    if not values:
        raise ValueError("draw_values needs at least one kind of values")
    columns = min(len(values), 2)
    rows = -(-len(values) // columns)
    with viz.figure((4.6 * columns + 0.8, 4.5 * rows + 0.4)) as figure:
        axes = figure.subplots(rows, columns, squeeze=False)
        for panel in axes.flat[len(values) :]:
            panel.axis("off")
        for panel, (name, of_moves) in zip(axes.flat, values.items(), strict=False):
            draw_board(panel, board, of_moves, most=most, played=played, title=name)
        value_bar(figure, axes, "value of a move", shrink=0.8)
        if title:
            figure.suptitle(title, fontsize=13)
    return figure


def _shown(values: MoveValues, most: int, played: chess.Move | None) -> list[chess.Move]:
    """The moves to draw, the best first, and the played one last where it is not among them."""
    shown = sorted(values, key=lambda move: (-values[move], move.uci()))[:most]
    return shown + [played] * (played is not None and played not in shown)


def _draw_move(axes: Axes, move: chess.Move, value: float | None, *, is_played: bool) -> None:
    start, end = (
        (chess.square_file(square), chess.square_rank(square))
        for square in (move.from_square, move.to_square)
    )
    color = "#777777" if value is None else VALUE_COLORS(min(max(value, 0.0), 1.0))
    rim = HIGHLIGHT if is_played else "white"
    arrow = {"arrowstyle": "-|>,head_width=0.35,head_length=0.5", "shrinkA": 10, "shrinkB": 9}
    for width, shade in ((4.6, rim), (2.4, color)):
        style = {**arrow, "color": shade, "linewidth": width}
        axes.annotate("", end, start, arrowprops=style, zorder=3)
    axes.plot(*end, "o", markersize=17, color=color, markeredgecolor=rim, zorder=4)
    if value is not None:
        number = f"{value:.2f}".removeprefix("0")
        axes.text(*end, number, ha="center", va="center", fontsize=8, color=ink(value), zorder=4.5)


def board_explorer(
    games: Sequence[Game],
    values: Mapping[str, Callable[[chess.Board], MoveValues]],
    *,
    game: int = 1,
    turn: int = 1,
    most: int = 8,
) -> None:
    """Step through games, and see the values of the moves of each position.

    Controls: the number of the game; that of White's turn; how many moves are shown. games: each of
    boards with White to move and White's moves, as of `game_of`. values: by title, functions from a
    board to the values of its moves. Raises ValueError for no games, one without turns, or a start
    value that its control does not offer.
    """

    def draw(game: int, turn: int, most: int) -> Figure:
        board, played = games[game - 1][turn - 1]
        name = board.san(played) if played else "an illegal move"
        return draw_values(
            board,
            {title: function(board) for title, function in values.items()},
            most=most,
            played=played,
            title=f"Game {game}, turn {turn} of {len(games[game - 1])}: White plays {name}",
        )

    step_through(
        draw,
        {"most": choice("most", "moves shown", most, MOST)},
        "Chess boards side by side: the same position, its moves as arrows colored by their "
        "learned value on one board and by their exact value on the other.",
        lengths=[len(one) for one in games],
        game=game,
        turn=turn,
    )
