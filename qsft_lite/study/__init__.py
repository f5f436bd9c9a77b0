"""One mechanism for every task: clone, train, choose, play, measure, and a table.

``python -m qsft_lite.study TASK --profile P`` runs a study; chapters call the same functions.
"""

from qsft_lite.study.rows import ABLATION, CLONING, ROWS, Row
from qsft_lite.study.run import TASKS, Study, has_study, module_of, run
from qsft_lite.study.settings import Settings, changed
from qsft_lite.study.task import Task, evenly

__all__ = [
    "ABLATION",
    "CLONING",
    "ROWS",
    "TASKS",
    "Row",
    "Settings",
    "Study",
    "Task",
    "changed",
    "evenly",
    "has_study",
    "module_of",
    "run",
]
