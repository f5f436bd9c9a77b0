"""Chess, whole games against an engine."""
