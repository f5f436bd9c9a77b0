"""The tasks, a folder each, all with the same inner shape: see docs/tasks.md."""
