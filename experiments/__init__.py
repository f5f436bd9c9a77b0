"""Longer runs whose results the README and the notebooks show."""
