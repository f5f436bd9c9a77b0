"""WebShop: find what an instruction asks for in a shop of text pages, choose its options, buy it.

`reward` is what a purchase is worth. What words have in common is said by `parts` in short.py.
"""

from qsft_lite.tasks.webshop.scoring import reward

__all__ = ["reward"]
