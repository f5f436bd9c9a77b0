"""A UCI engine, such as Stockfish, that is started when needed, revived, and never left behind."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import copy
import logging
import shutil
import threading
import time
import weakref
from pathlib import Path
from typing import Any, Literal

import chess
import chess.engine
import numpy as np

PLACES = ("/usr/games/stockfish", "/usr/local/bin/stockfish", "/opt/homebrew/bin/stockfish")
MILLISECONDS = 100  # a move, as LMRL-Gym's
START_SECONDS = 10.0  # at least, that an engine has to start
ATTEMPTS = 3  # to get a move from an engine that dies, hangs or does not start
HOW_TO_INSTALL = (
    "Full games of chess need a UCI engine. Install Stockfish (Debian, Ubuntu and Colab: "
    "apt install stockfish; macOS: brew install stockfish; conda: conda install -c conda-forge "
    "stockfish), or say where one is with engine=PATH. Endgames, and opponent='random', need none."
)
# Stockfish's own handicap (Skill in its search.cpp, version 15.1), so that a seed can decide it.
CANDIDATES = 4  # it picks one of the best four moves,
PAWN = 126  # by scores in its own units, of which a pawn is that many
CENTIPAWN = 3.61  # and what it calls a centipawn that many

Elo = int | Literal["floor", "full"]

# Both are TimeoutError from Python 3.11 on.
TIMEOUTS = (asyncio.TimeoutError, concurrent.futures.TimeoutError)
FAILURES = (chess.engine.EngineError, OSError, concurrent.futures.CancelledError, *TIMEOUTS)

log = logging.getLogger(__name__)


def find_engine(engine: str | Path | None = None) -> str:
    """The path of an engine: the one given, or stockfish on PATH or where Debian puts it.

    Raises FileNotFoundError, saying what to install.
    """
    for place in [engine] if engine else ["stockfish", *PLACES]:
        found = shutil.which(str(place))
        if found:
            return found
    raise FileNotFoundError(
        f"No engine at {engine}. {HOW_TO_INSTALL}" if engine else HOW_TO_INSTALL
    )


class Engine(contextlib.AbstractContextManager):
    """Chooses moves, each from a fresh start of mind: it knows the position and nothing else.

    engine: path of the program, None to look for Stockfish. elo: its strength by UCI_Elo, in the
    engine's own range; "floor" is the least of that range, which is what LMRL-Gym's engine played
    at (it asked for 1200, which Stockfish ignores), "full" is no handicap.

    Limits: milliseconds a move (the protocol, 100 when neither is given), or nodes a move, which is
    reproducible. Stockfish draws its handicap from the clock; with a node limit it is therefore
    drawn here, by the same rule from the same four best moves, with the random numbers given.

    timeout: seconds beyond its milliseconds, or for all of its nodes, after which the engine counts
    as hung. It is then killed; one that hung or died is started anew and asked again. Copies share
    the process. close ends it, and so does the end of the object or of Python; the next move would
    start another.
    """

    def __init__(
        self,
        engine: str | Path | None = None,
        elo: Elo = "floor",
        *,
        milliseconds: int | None = None,
        nodes: int | None = None,
        timeout: float = 10.0,
    ) -> None:
        if milliseconds is not None and nodes is not None:
            raise ValueError("the engine's limit is milliseconds or nodes, not both")
        for name, value in (("milliseconds", milliseconds), ("nodes", nodes)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not timeout > 0:  # refuses NaN too
            raise ValueError(f"timeout must be more than 0 seconds, got {timeout}")
        self.path = find_engine(engine)
        self.nodes = nodes
        self.milliseconds = None if nodes else milliseconds or MILLISECONDS
        self.timeout = timeout
        self._running: list[chess.engine.SimpleEngine] = []
        self._finalizer = weakref.finalize(self, _end, self._running)
        self.elo: int | None = None  # until the engine has said its range
        try:
            process = self._process()
            self.name = str(process.id.get("name", self.path))
            self.elo = _elo_in_range(process, elo)
            if self.elo and nodes and "MultiPV" not in process.options:
                raise ValueError(
                    f"{self.name} has no MultiPV, so it plays by nodes with elo='full' only"
                )
        finally:
            self.close()

    def at(self, elo: Elo) -> Engine:
        """The same process at another strength; with a node limit only, see the class."""
        if not self.nodes:
            raise ValueError("one process plays at several strengths with a node limit only")
        other = copy.copy(self)
        other.elo = _elo_in_range(self._process(), elo)
        other._owner = self  # whose end is that of the process
        return other

    def __deepcopy__(self, memo: dict) -> Engine:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The process, if it runs."""
        return self._running[0].transport.get_pid() if self._running else None

    def close(self) -> None:
        """End the process, if it runs."""
        _end(self._running)

    def choose(self, board: chess.Board, rng: np.random.Generator) -> chess.Move:
        """A move for the side to move. Raises RuntimeError when the engine fails repeatedly."""
        board = board.copy(stack=False)
        noise = rng.integers(2**32, size=CANDIDATES) if self.nodes and self.elo else None
        for attempt in range(ATTEMPTS):
            try:
                return self._choose(board, noise)
            except FAILURES as error:
                failure = error
                log.warning("The engine failed (%r), attempt %d: started anew", error, attempt + 1)
                self.close()
        slow = f"; if it is only slow, raise timeout, now {self.timeout} seconds"
        raise RuntimeError(
            f"{self.path} failed {ATTEMPTS} times at {board.fen()!r}: {failure!r}"
            f"{slow if isinstance(failure, TIMEOUTS) else ''}"
        ) from failure

    def _choose(self, board: chess.Board, noise: np.ndarray | None) -> chess.Move:
        process = self._process()
        fresh = object()  # a new game each time: the engine forgets all it has seen
        if noise is None:
            seconds = self.milliseconds / 1000 if self.milliseconds else None
            limit = chess.engine.Limit(time=seconds, nodes=self.nodes)
            move = process.play(board, limit, game=fresh).move
            if move is None:
                raise chess.engine.EngineError("it has no move")
            return move
        level = skill_level(self.elo)
        limit = chess.engine.Limit(depth=1 + int(level), nodes=self.nodes)
        lines = process.analyse(board, limit, game=fresh, multipv=CANDIDATES)
        scored = [(line["score"].relative, line["pv"][0]) for line in lines if line.get("pv")]
        if not scored:
            raise chess.engine.EngineError("it has no move")
        return scored[pick([_in_own_units(score) for score, _ in scored], level, noise)][1]

    def _process(self) -> chess.engine.SimpleEngine:
        """The running engine, started if need be."""
        if not self._running:
            self._running.append(_start(self.path, self.timeout))
            options: dict[str, Any] = {"Threads": 1}
            if self.nodes:
                options["Hash"] = 1  # quick to clear
            elif self.elo:
                options |= {"UCI_LimitStrength": True, "UCI_Elo": self.elo}
            process = self._running[0]
            process.configure({k: v for k, v in options.items() if k in process.options})
        return self._running[0]


class _Process(chess.engine.SimpleEngine):
    """An engine that is given up on in any search.

    A search by nodes must have no time limit, or the clock would decide where it ends, and
    chess.engine waits for ever for one that has none.
    """

    def _timeout_for(self, limit: chess.engine.Limit | None) -> float:
        return self.timeout + ((limit and limit.time) or 0)


def skill_level(elo: int) -> float:
    """Stockfish 15.1's handicap level, 0 to 20, of an Elo."""
    return float(np.clip(max((elo - 1346.6) / 143.4, 0) ** (1 / 0.806), 0, 20))


def pick(scores: list[int], level: float, noise: np.ndarray) -> int:
    """Which of the best moves Stockfish 15.1 plays at a level, given its random numbers.

    scores: of the moves, best first. noise: a 32-bit random number for each.
    """
    weakness = 120 - 2 * level
    delta = min(scores[0] - scores[-1], PAWN)
    best, highest = 0, -np.inf
    for i, score in enumerate(scores):
        push = int((weakness * (scores[0] - score) + delta * (int(noise[i]) % int(weakness))) / 128)
        if score + push >= highest:
            best, highest = i, score + push
    return best


def _in_own_units(score: chess.engine.Score) -> int:
    """A score as Stockfish 15.1 holds it: a mate is 32000 less its plies."""
    moves = score.mate()
    if moves is not None:
        plies = 2 * abs(moves) - (moves > 0)
        return 32000 - plies if moves > 0 else plies - 32000
    return round(score.score() * CENTIPAWN)


def _elo_in_range(process: chess.engine.SimpleEngine, elo: Elo) -> int | None:
    """The Elo to set, None for no handicap; ValueError, naming the range, outside the engine's."""
    if elo == "full":
        return None
    name = process.id.get("name", "the engine")
    option = process.options.get("UCI_Elo")
    if option is None:
        raise ValueError(f"{name} has no UCI_Elo, so its strength must be elo='full', not {elo!r}")
    if elo == "floor":
        return int(option.min)
    if not (isinstance(elo, int | np.integer) and option.min <= elo <= option.max):
        raise ValueError(
            f"elo must be 'floor', 'full' or between {option.min} and {option.max}, the range of "
            f"{name}, got {elo!r} (which the engine would ignore without a word)"
        )
    return int(elo)


def _start(path: str, timeout: float) -> chess.engine.SimpleEngine:
    """Start an engine; EngineError, which is a RuntimeError, for a program that is none.

    It talks to a thread, which would keep Python from ending; a daemon does not, and threads
    started by a daemon are daemons.
    """
    started: concurrent.futures.Future[chess.engine.SimpleEngine] = concurrent.futures.Future()

    def start() -> None:
        try:
            patience = max(timeout, START_SECONDS)
            started.set_result(_Process.popen_uci(path, timeout=patience, setpgrp=True))
        except BaseException as error:
            started.set_exception(error)

    threading.Thread(target=start, daemon=True).start()
    try:
        process = started.result()
    except Exception as error:
        message = f"{path} does not start as a UCI engine: {error!r}"
        raise chess.engine.EngineError(message) from error
    process.timeout = timeout
    process.protocol.loop.set_exception_handler(_keep_quiet)
    return process


def _keep_quiet(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what a killed engine leaves behind: `choose` has told of its end already.

    Those are exceptions that nobody waited for, and answers to searches that were given up.
    """
    if isinstance(context.get("exception"), (*FAILURES, asyncio.InvalidStateError)):
        log.debug("%s: %r", context.get("message"), context["exception"])
    else:
        loop.default_exception_handler(context)


def _end(running: list[chess.engine.SimpleEngine]) -> None:
    """Kill the process, which has nothing to save, and see it gone."""
    while running:
        process = running.pop()
        process.close()
        patience = time.monotonic() + 2
        while process.transport.get_returncode() is None and time.monotonic() < patience:
            time.sleep(0.001)
