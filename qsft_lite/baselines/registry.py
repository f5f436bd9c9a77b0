"""Every method under one name: how it is trained, how it acts, and how figures show it.

Plain data, which needs no torch: training (`methods`) and figures (`viz.plots`) both read it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["METHODS", "SHOWN", "Method", "find_method"]


@dataclass(frozen=True)
class Method:
    """A method, or a line that is drawn beside methods.

    title: its name, the same in every chapter, table and figure.
    color, marker, line: of its curves, as matplotlib takes them. Colors are those of Okabe and Ito,
        and a few that the color-blind can tell from them.
    family: how it is trained: "cloning", "heads" (values from new heads), "q_sft" (the loss of
        Q-SFT), "distilling" (from another method's policy), or None for what is only shown.
    options: its own settings with their defaults; for "q_sft" they are fields of QSFTConfig.
    score: what a method of "q_sft" acts by, "p", "ratio" or "paired".
    """

    title: str
    color: str
    marker: str
    line: str = "-"
    family: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    score: str | None = None

    @property
    def has_values(self) -> bool:
        """Whether it acts by values, and so takes a beta."""
        return self.family in ("heads", "q_sft")


# Half of the steps on returns, then on the behavior's value of the next state: one step of policy
# improvement over well learned values of the behavior.
_OURS = {"leftover": "paired", "backup": "behavior", "returns_first": 0.5}
_DUMMY = {"leftover": "dummy", "backup": "behavior", "train_behavior": True}
_PAPER = {"leftover": "uniform", "backup": "max"}

# The methods that can be trained, by the key that baselines.train takes.
METHODS = {
    "bc": Method("Behavior cloning", "#B0B0B0", "v", "-", "cloning"),
    "filtered_bc": Method("Filtered cloning", "#E69F00", "^", "-", "cloning", {"fraction": 0.1}),
    # Emmons et al., 2022; Chen et al., 2021
    "return_conditioned": Method(
        "Return-conditioned", "#8B5A2B", "<", "-", "cloning", {"levels": 10}
    ),
    # The value is the mean return that followed the action in the data.
    "mc_returns": Method(
        "Monte-Carlo returns",
        "#D55EA8",
        "P",
        "-",
        "q_sft",
        {"leftover": "paired", "backup": "returns"},
        "paired",
    ),
    # Snell et al., 2023. Conservatism is in units of a normalised return: for Wordle's six points,
    # .002 is the .01 that ILQL was published with.
    "ilql": Method("ILQL", "#56B4E9", "X", "-", "heads", {"expectile": 0.7, "conservatism": 0.002}),
    # Kumar et al., 2020
    "cql": Method("CQL", "#009E73", "D", "-", "heads", {"conservatism": 0.01}),
    # Chebotar et al., 2023. choices: the tokens that the maximum is over, see q_transformer.
    "q_transformer": Method(
        "Q-Transformer", "#880077", "+", "-", "heads", {"conservatism": 0.5, "choices": "seen"}
    ),
    "q_sft_paper": Method("Q-SFT (paper)", "#D55E00", "s", "-", "q_sft", _PAPER, "p"),
    "q_sft": Method("Q-SFT (ours)", "#0072B2", "o", "-", "q_sft", _OURS, "paired"),
    # Its policy, at these options, learned by one network.
    "q_sft_distilled": Method(
        "Q-SFT, distilled",
        "#0072B2",
        "D",
        "--",
        "distilling",
        {"beta": 32.0, "temperature": 1.0, "relative_support": 0.2, "greedy": False},
    ),
    # The form before it, whose value is the quotient of two networks.
    "q_sft_dummy": Method("Q-SFT, one dummy", "#6666FF", ">", "-", "q_sft", _DUMMY, "ratio"),
    # Two controls: is it the reuse of the logits that helps? Is it more than label smoothing?
    "q_sft_new_head": Method(
        "Q-SFT, new head", "#0072B2", "h", ":", "q_sft", {**_OURS, "values": "head"}, "paired"
    ),
    "random_targets": Method(
        "Random targets",
        "#C2B280",
        "x",
        ":",
        "q_sft",
        {"leftover": "paired", "backup": "random"},
        "paired",
    ),
}

# Those, and what is only shown beside them.
SHOWN = {
    **METHODS,
    # Behavior cloning at the temperature that was best on validation games.
    "sharpened_bc": Method("Sharpened cloning", "#555555", "p", "--"),
    # Of chapter 07: the backup is the largest value of the support.
    "q_sft_largest": Method("Q-SFT (ours), support backup", "#0072B2", "*", "-."),
    # Rows of recorded studies: one dummy with half of the steps on returns, before either backup.
    "q_sft_returns_first": Method("Q-SFT, one dummy, returns first", "#6666FF", "H", "--"),
    "q_sft_support": Method("Q-SFT, one dummy, support backup", "#6666FF", "8", ":"),
    # Yao et al., 2022: a prompted model, untrained, with thoughts between its actions or without.
    "react": Method("ReAct", "#660022", "d"),
    "act_only": Method("Act only", "#660022", "4", ":"),
    "behavior": Method("Behavior policy", "#B0B0B0", "", ":"),
    "q_learning": Method("Q-learning", "#4B0082", "*"),
    "fitted_q": Method("Fitted Q", "#56B4E9", "d"),
    "optimum": Method("Optimum", "#000000", ""),
}


def find_method(name: str) -> Method:
    """The method of a key or a title. KeyError, with the titles there are, for any other name."""
    for key, method in SHOWN.items():
        if name in (key, method.title):
            return method
    titles = ", ".join(method.title for method in SHOWN.values())
    raise KeyError(f"no method {name!r}; there are: {titles}")
