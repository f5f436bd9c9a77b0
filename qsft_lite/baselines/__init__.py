"""The methods that Q-SFT is compared with, behind one interface.

`train` trains any of METHODS, `choose_options` finds its best temperature or beta on validation
games, and the policy it gives plays as Q-SFT's does.
"""

from qsft_lite.baselines.methods import METHODS, Method, TrainedMethod, choose_options, train

__all__ = ["METHODS", "Method", "TrainedMethod", "choose_options", "train"]
