"""Which way imports run: read from the source, nothing is imported. See docs/architecture.md."""

import ast
from fnmatch import fnmatch

import pytest
from places import ROOT

# Of each room what it may import beside itself. The first pattern that a module fits is its own.
METHOD = ("data", "files", "loss", "models")
STUDY = (
    *METHOD,
    "baselines",
    "evaluate",
    "policy",
    "results",
    "study",
    "tabular",
    "trainer",
    "viz",
)
ALLOWED: dict[str, tuple[str, ...]] = {
    "checks": (),
    "files": (),
    "loss": (),
    "tabular": (),
    "nano": (),
    "data": ("checks", "files", "loss"),
    "models": ("files", "loss", "data.transcripts"),  # which says how a text starts and stops
    "evaluate": ("data",),
    "policy": METHOD,
    "trainer": METHOD,
    "baselines": (*METHOD, "evaluate", "policy", "trainer"),
    "results": ("files",),
    "viz": ("baselines.registry", "loss", "tabular"),
    "tasks.endgames.study": (*STUDY, "tasks.chess"),
    "tasks.*.study": STUDY,
    "tasks.guessing_study": STUDY,  # what Wordle and Twenty Questions share
    "tasks.agent_study": STUDY,  # what WebShop and ALFWorld share
    "tasks.agent_widgets": ("evaluate", "policy", "tabular", "viz"),
    "tasks.chess.learn_rules": STUDY,  # which its study trains by
    "tasks.twenty_questions.pretrained": STUDY,  # trainings from a pretrained model
    "tasks.endgames.widgets": ("evaluate", "policy", "tabular", "viz", "tasks.chess"),
    "tasks.*.widgets": ("evaluate", "policy", "tabular", "viz"),
    "tasks.manipulation.film": ("viz",),
    "tasks.manipulation.asking": ("policy",),
    "tasks.manipulation.scene": ("policy", "viz"),
    "tasks.manipulation.value_map": ("policy", "viz"),
    "tasks.manipulation.reader": ("data", "evaluate", "files", "policy"),
    "tasks.endgames": ("data", "evaluate", "files", "tasks.chess"),
    "tasks": ("checks", "data", "evaluate", "files", "tabular"),
    "envs": ("tasks.checks",),  # and a task by its name, when it is asked for
    "generate": ("data", "envs", "tasks.checks"),
    "study": (*STUDY, "envs"),  # which task is where
    "notebook": (*METHOD, "evaluate", "policy", "results", "trainer"),
}
OF_ALL_TASKS = (
    "tasks.checks",
    "tasks.guessing",
    "tasks.draws",
    "tasks.guessing_study",
    "tasks.agent_study",
    "tasks.agent_widgets",
)

SOURCES = {
    ".".join(path.relative_to(ROOT / "qsft_lite").with_suffix("").parts).removesuffix(
        ".__init__"
    ): path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "qsft_lite").rglob("*.py"))
}


def imported(source: str) -> set[str]:
    """Everything that a source imports, anywhere in it, by its whole name."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written from qsft_lite on"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def is_within(name: str, room: str) -> bool:
    return f"{name}.".startswith(f"{room}.")


def room_of(module: str) -> str:
    """ "trainer.step" -> "trainer", "tasks.wordle.rules" -> "tasks.wordle"."""
    return ".".join(module.split(".")[: 2 if is_within(module, "tasks") else 1])


def rule_of(module: str) -> tuple[str, ...]:
    for pattern, allowed in ALLOWED.items():
        if fnmatch(module, pattern) or fnmatch(module, f"{pattern}.*"):
            return allowed
    raise KeyError(f"qsft_lite.{module} is in no room: say in ALLOWED what it may import")


def wrong_imports(module: str, source: str) -> set[str]:
    """The imports of a module, named from qsft_lite on, that its room does not allow."""
    allowed = (room_of(module), *rule_of(module))
    if is_within(module, "tasks"):
        allowed += OF_ALL_TASKS
    wrong = set()
    for name in imported(source):
        top, _, rest = name.partition(".")
        if top in ("benchmarks", "notebooks", "tests", "tools"):
            wrong.add(f"{module} -> {name}")
        elif top == "qsft_lite" and rest and not any(is_within(rest, room) for room in allowed):
            wrong.add(f"{module} -> {rest}")
    return wrong


def test_every_import_runs_the_allowed_way():
    wrong = set().union(
        *(
            wrong_imports(module, source)
            for module, source in SOURCES.items()
            if module != "__init__"
        )
    )
    assert not wrong


def test_the_table_has_no_circle():
    """A room may be drawn below all that import it: so its floors can be counted."""
    arrows: dict[str, set[str]] = {}
    for pattern, allowed in ALLOWED.items():
        if pattern.startswith("tasks.") or pattern == "study":
            continue  # a task's study is above study, which is above the task
        arrows[pattern] = {room.split(".")[0] for room in allowed} - {pattern}
    while arrows:
        ground = {room for room, below in arrows.items() if not below & set(arrows)}
        assert ground, f"a circle among {sorted(arrows)}"
        arrows = {room: below for room, below in arrows.items() if room not in ground}


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("loss.q_sft", "from qsft_lite.models import output_head"),
        ("data.packing", "from qsft_lite import trainer"),
        ("models.small", "from qsft_lite.data.encoding import encode"),
        ("trainer.step", "def f():\n    from qsft_lite.baselines import METHODS"),
        ("policy.q_sft", "import qsft_lite.study.run"),
        ("tasks.chess.env", "from qsft_lite.tasks.endgames.moves import left"),
        ("tasks.wordle.data", "from qsft_lite.baselines import train"),
        ("tasks.wordle.rules", "from qsft_lite.tasks.chess.text import spaced"),
        ("tasks.wordle.study", "from qsft_lite.notebook import start"),
        ("tasks.checks", "from qsft_lite.tasks.chess.text import spaced"),
        ("study.run", "from qsft_lite.notebook import start"),
        ("envs", "from qsft_lite.tasks.wordle.env import Wordle"),
        ("results", "from qsft_lite.notebook import start"),
        ("trainer", "from benchmarks import step"),
    ],
)
def test_a_wrong_import_is_found(module, line):
    assert len(wrong_imports(module, line)) == 1


def test_right_imports_are_none_of_them():
    for module, line in [
        ("models.small", "from qsft_lite.data.transcripts import start_id"),
        ("tasks.endgames.env", "from qsft_lite.tasks.chess.env import ChessGame"),
        ("tasks.wordle.rules", "from qsft_lite.tasks.guessing import read_turns"),
        ("tasks.wordle.study", "from qsft_lite.baselines import train"),
        ("trainer.step", "import torch\nfrom qsft_lite.trainer.config import QSFTConfig"),
    ]:
        assert not wrong_imports(module, line)
    with pytest.raises(KeyError, match="in no room"):
        rule_of("attic.old")
