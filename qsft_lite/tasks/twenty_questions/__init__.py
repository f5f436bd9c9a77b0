"""Twenty Questions about everyday objects."""
