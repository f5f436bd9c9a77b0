"""Benchmarks: ratios that are printed and recorded, never asserted."""
