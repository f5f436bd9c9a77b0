"""Wordle, by LMRL-Gym's rules or the standard ones."""
