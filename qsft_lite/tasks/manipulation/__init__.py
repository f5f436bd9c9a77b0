"""A robot at a table, in pictures: blocks, a tray and two drawers."""
