"""ALFWorld: household tasks in text, six kinds of them, with the original's rules and words."""
