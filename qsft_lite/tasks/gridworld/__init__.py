"""Mazes and other tables as text."""
