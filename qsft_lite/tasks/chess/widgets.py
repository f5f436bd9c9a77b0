"""A chess board with what is known of its moves: arrows colored by learned and exact values."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from reprlib import repr as brief
from typing import Any

import chess
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import TextPath

from qsft_lite import viz
from qsft_lite.tasks.chess.env import ChessGame
from qsft_lite.tasks.chess.text import read_move
from qsft_lite.viz.explorers import choice, command, show_explorer, step_through, text_box
from qsft_lite.viz.plots import HIGHLIGHT, VALUE_COLORS, ink, value_bar

LIGHT, DARK = "#f2ede2", "#d3cabb"
SQUARES = np.array(
    [[to_rgb(LIGHT if (file + rank) % 2 else DARK) for file in range(8)] for rank in range(8)]
)
CHOOSE = "(choose)"
MAN = 24  # points, the size of a man's sign
MOST = (("4", 4), ("8", 8), ("16", 16), ("all", 99))

MoveValues = Mapping[chess.Move, float]
ValuesOf = Callable[[chess.Board], MoveValues]
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
    axes.imshow(SQUARES, origin="lower", interpolation="nearest", aspect="equal")
    _draw_moves(axes, [(m, values.get(m)) for m in reversed(_shown(values, most, played))], played)
    for piece, squares in _men(board).items():
        # The filled signs, for both sides: outlines of white men hardly show at this size.
        sign, size = _sign(piece.piece_type)
        fill, rim = ("white", "black") if piece.color else ("black", "white")
        places = np.array([_place(square) for square in squares])
        for color, factor in ((rim, 1.18), (fill, 1.0)):
            style = {"marker": sign, "markersize": factor * size, "markeredgewidth": 0}
            axes.plot(*places.T, linestyle="", color=color, **style, zorder=5)
    viz.bare(axes)
    axes.set(xlim=(-0.5, 7.5), ylim=(-0.5, 7.5), title=title)
    # Texts of our own, not ticks: those would take longer than all else.
    for number, (file, rank) in enumerate(zip("abcdefgh", "12345678", strict=True)):
        axes.text(number, -0.62, file, ha="center", va="top", fontsize=9)
        axes.text(-0.66, number, rank, ha="right", va="center", fontsize=9)


def _place(square: int) -> tuple[int, int]:
    """File and rank, from 0 on."""
    return chess.square_file(square), chess.square_rank(square)


def _men(board: chess.Board) -> dict[chess.Piece, list[int]]:
    """The squares of each kind of man."""
    men: dict[chess.Piece, list[int]] = {}
    for square, piece in board.piece_map().items():
        men.setdefault(piece, []).append(square)
    return men


@lru_cache
def _sign(piece_type: int) -> tuple[Path, float]:
    """A man's sign as a marker, centered, and its size in points."""
    letter = chess.piece_symbol(piece_type)
    sign = chess.UNICODE_PIECE_SYMBOLS[letter]
    path = TextPath((0, 0), sign, size=MAN, prop=FontProperties(family="DejaVu Sans"))
    low, high = path.vertices.min(axis=0), path.vertices.max(axis=0)
    path = Path(path.vertices - (low + high) / 2, path.codes)
    # A marker is as large as its longest side; so all men are of one scale.
    return path, 2 * float(np.abs(path.vertices).max())


def draw_values(
    board: chess.Board,
    values: Mapping[str, MoveValues],
    *,
    most: int = 8,
    played: chess.Move | None = None,
    title: str = "",
    note: str = "",
) -> Figure:
    """A board for each kind of value, two in a row, on one scale of colors from 0 to 1.

    values: by title, such as {"learned": {move: value}, "exact": {move: value}}; ValueError for
    none. The other options are those of `draw_board`; title is above all boards, note below them.
    """
    if not values:
        raise ValueError("draw_values needs at least one kind of values")
    columns = min(len(values), 2)
    rows = -(-len(values) // columns)
    width = 4.35 * columns + 0.8
    lines = textwrap.wrap(note, int(10.5 * width))
    height = 4.5 * rows + 0.5 + 0.22 * len(lines)
    with viz.figure((width, height), fixed=True) as figure:
        for number, (name, of_moves) in enumerate(values.items()):
            row, column = divmod(number, columns)
            left, bottom = 0.4 + 4.35 * column, height - 0.45 - 4.5 * (row + 1) + 0.35
            place = left / width, bottom / height, 3.85 / width, 3.85 / height
            draw_board(
                figure.add_axes(place), board, of_moves, most=most, played=played, title=name
            )
        if any(values.values()):
            place = 1 - 0.75 / width, 0.3, 0.14 / width, 0.4
            value_bar(figure, None, "value of a move", cax=figure.add_axes(place))
        if title:
            figure.suptitle(title, fontsize=13, y=1 - 0.12 / height, va="top", parse_math=False)
        figure.text(
            0.4 / width,
            0.1 / height,
            "\n".join(lines),
            fontsize=11,
            color="#444444",
            parse_math=False,
        )
    return figure


def _shown(values: MoveValues, most: int, played: chess.Move | None) -> list[chess.Move]:
    """The moves to draw, the best first, and the played one last where it is not among them."""
    shown = sorted(values, key=lambda move: (-values[move], move.uci()))[:most]
    return shown + [played] * (played is not None and played not in shown)


def _draw_moves(
    axes: Axes,
    moves: Sequence[tuple[chess.Move, float | None]],
    played: chess.Move | None,
) -> None:
    """Arrows with their values at the end, the last one on top. One artist for all arrows."""
    if not moves:
        return
    colors = [
        "#777777" if value is None else VALUE_COLORS(min(max(value, 0.0), 1.0))
        for _, value in moves
    ]
    rims = [HIGHLIGHT if move == played else "white" for move, _ in moves]
    starts = np.array([_place(move.from_square) for move, _ in moves], dtype=float)
    ends = np.array([_place(move.to_square) for move, _ in moves], dtype=float)
    ways = ends - starts
    steps = ways / np.hypot(*ways.T)[:, None]
    shafts = starts + 0.3 * steps, ways - 0.55 * steps  # from beside the man to beside the dot
    options = {"angles": "xy", "units": "xy", "scale_units": "xy", "scale": 1, "zorder": 3}
    head = {"headwidth": 3.4, "headlength": 3.6, "headaxislength": 3.6, "minshaft": 1}
    rim = {"edgecolors": rims, "linewidths": 1.2}
    axes.quiver(*shafts[0].T, *shafts[1].T, color=colors, width=0.1, **options, **head, **rim)
    dots = [0.5] * len(moves)
    dots = EllipseCollection(
        *(dots, dots, np.zeros(len(moves))),
        units="xy",
        offsets=ends,
        offset_transform=axes.transData,
        facecolors=colors,
        edgecolors=rims,
        linewidths=1.2,
        zorder=4,
    )
    axes.add_collection(dots)
    for (_, value), end in zip(moves, ends, strict=True):
        if value is not None:
            style = {"ha": "center", "va": "center", "fontsize": 8, "color": ink(value)}
            axes.text(*end, f"{value:.2f}".removeprefix("0"), **style, zorder=4.5)


def board_explorer(
    games: Sequence[Game],
    values: Mapping[str, ValuesOf],
    *,
    methods: Mapping[str, ValuesOf] | None = None,
    judge: ValuesOf | None = None,
    game: int = 1,
    turn: int = 1,
    most: int = 8,
) -> None:
    """Step through games, and see the values of the moves of each position.

    Controls: the number of the game; that of White's turn; how many moves are shown; of `methods`
    which one; and with a `judge` a button that goes to the move that lost most by its values.

    Args:
        games: each of boards with White to move and White's moves, as of `game_of`.
        values: by title, functions from a board to the values of its moves, each with a board.
        methods: the same, of which the reader chooses one, for the first board.
        judge: such a function, of all moves.
        game: shown at the start, with turn; most: moves shown at the start.

    Raises ValueError for no games, one without turns, no values, or a start value that its control
    does not offer.
    """
    controls = {"most": choice("most", "moves shown", most, MOST)}
    if methods:
        controls["method"] = choice("method", "method", next(iter(methods)), list(methods))

    def draw(game: int, turn: int, most: int, method: str = "") -> Figure:
        board, played = games[game - 1][turn - 1]
        kinds = {method: methods[method], **values} if method else values
        name = board.san(played) if played else "an illegal move"
        note = "" if judge is None else _loss_text(board, played, judge(board))
        return draw_values(
            board,
            {title: function(board) for title, function in kinds.items()},
            most=most,
            played=played,
            title=f"Game {game}, turn {turn} of {len(games[game - 1])}: White plays {name}",
            note=note,
        )

    def worst_turn(game: int) -> int:
        losses = [_loss(played, judge(board)) for board, played in games[game - 1]]
        return 1 + int(np.argmax(losses))

    step_through(
        draw,
        controls,
        "Chess boards side by side: the same position, its moves as arrows colored by their "
        "learned value on one board and by their exact value on the other.",
        lengths=[len(one) for one in games],
        game=game,
        turn=turn,
        jump=None if judge is None else ("largest fall", worst_turn),
    )


def _loss(played: chess.Move | None, values: MoveValues) -> float:
    """How much less the move is worth than the best one; an illegal one loses nothing by values."""
    return max(values.values()) - values[played] if played in values else 0.0


def _loss_text(board: chess.Board, played: chess.Move | None, values: MoveValues) -> str:
    if played not in values:
        return "An illegal move: the position stays."
    best = max(values, key=lambda move: (values[move], move.uci()))
    if _loss(played, values) < 0.005:
        return f"{board.san(played)}, {values[played]:.2f}, is one of the best moves."
    return (
        f"{board.san(played)} is worth {values[played]:.2f}, {board.san(best)} {values[best]:.2f}: "
        f"a fall of {_loss(played, values):.2f}."
    )


def own_moves_explorer(
    env: ChessGame,
    values: Mapping[str, ValuesOf] | None = None,
    *,
    judge: tuple[str, ValuesOf] | None = None,
    positions: Sequence[str | None] = (None,),
    seed: int = 0,
    most: int = 8,
) -> None:
    """Play White in this game, against its opponent, and see the values of the moves beside.

    Controls: which of the positions the game starts from; White's move, one of the legal ones; a
    box to type a move, legal or not; and a button that takes the last try back.

    Args:
        env: the game; one of its own is played here. Its opponent must answer equal games equally,
            as all but an engine without a node limit do.
        values: by title, functions from a board to the values of its moves; none for a bare board.
        judge: a name, and a function to the values of all moves, which says what a move lost.
        positions: FENs to start from, None for one that the game draws.
        seed: of the games.
        most: so many moves are shown.

    Raises ValueError for no positions, or one that cannot be played.
    """
    if not positions:
        raise ValueError("own_moves_explorer needs at least one position, which may be None")
    env, tries = env.clone(), []
    for position in positions:
        env.reset(seed=seed, options=None if position is None else {"position": position})
    controls = {
        "game": choice("game", "game", 1, range(1, len(positions) + 1)),
        "move": choice("move", "White's move", CHOOSE, [CHOOSE]),
        "typed": text_box("or type it", placeholder="such as Qd5"),
        "back": command("take back"),
    }
    last_game = 1

    def draw(game: int, move: str, typed: str, back: bool) -> Figure:
        nonlocal last_game
        if game != last_game:
            last_game = game
            tries.clear()
        if back:
            del tries[-1:]
        said = typed.strip() or ("" if move == CHOOSE else move)
        position = positions[game - 1]
        replay = partial(_replay, env, position, seed + game, judge=judge)
        if said and not back and replay(tries).going:
            tries.append(said)
        found = replay(tries)
        board = found.board
        sans = sorted(map(board.san, board.legal_moves)) if found.going else []
        controls["move"].options = [CHOOSE, *sans]
        controls["typed"].value, controls["back"].value = "", False
        kinds = values or {"": lambda board: {}}
        return draw_values(
            board,
            {title: of_board(board) if found.going else {} for title, of_board in kinds.items()},
            most=most,
            title=found.title,
            note=found.note,
        )

    show_explorer(
        draw,
        controls,
        "A chess board, White to move, to be played on; where values are known, the moves are "
        "arrows colored by their value, one board for each kind of values.",
    )


@dataclass
class _Replayed:
    """A game after some tries: its board, whether it goes on, and what there is to say."""

    board: chess.Board
    going: bool
    title: str
    note: str


def _replay(
    env: ChessGame,
    position: str | None,
    seed: int,
    tries: Sequence[str],
    *,
    judge: tuple[str, ValuesOf] | None,
) -> _Replayed:
    """Play these tries of White, legal or not."""
    env.reset(seed=seed, options=None if position is None else {"position": position})
    board, going, note, score, illegal = env.board, True, "", 0.0, 0
    for text in tries:
        move = read_move(board, text)
        _, reward, over, cut, info = env.step(env.action_text(board, move) if move else "?\n")
        score, illegal, going = score + reward, illegal + (move is None), not (over or cut)
        after = env.board or chess.Board(info["position"])
        if move is None:
            note = f"{brief(text)} is no legal move here: reward -1, and the position stays."
        else:
            note = f"You: {board.san(move)}."
            if going:
                reply = after.peek()
                board.push(move)
                note += f" Black: {board.san(reply)}."
                board.pop()
            if judge is not None:
                note += f" By {judge[0]}: {_loss_text(board, move, judge[1](board))}"
        board = after
    if going:
        title = f"White's move {len(tries) + 1}"
    else:
        ends = {"1-0": "You have won", "0-1": "Black has won", "1/2-1/2": "A draw"}
        title = f"{ends.get(info['result'], 'No more moves')} after {_counted(len(tries))}"
    if tries:
        title += f"; {illegal} illegal, score {score:+.0f}"
    return _Replayed(board, going, title, note)


def _counted(tries: int) -> str:
    return "1 try" if tries == 1 else f"{tries} tries"
