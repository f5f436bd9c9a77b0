"""Mazes and other tables as text.

A word shares nothing with others that a small table does not teach: text.py has no `parts`.
"""
