"""Chess endgames, solved exactly."""
