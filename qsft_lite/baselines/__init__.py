"""The methods that Q-SFT is compared with, behind one interface.

`train` trains any of METHODS, `choosing.choose` finds its best options on validation games, and the
policy it gives plays as Q-SFT's does.
"""

from qsft_lite.baselines.registry import METHODS, Method

__all__ = ["METHODS", "Method", "TrainedMethod", "train"]


def __getattr__(name: str):
    """What trains is loaded when it is first asked for: figures need METHODS alone, not torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    from qsft_lite.baselines import methods

    return getattr(methods, name)
