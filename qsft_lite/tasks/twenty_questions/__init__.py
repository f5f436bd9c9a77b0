"""Twenty Questions about everyday objects.

A line is one token, and what questions have in common is for the network to learn: text.py has no
`parts`.
"""
