"""Why a rung fails: explanations that are tested, not guessed."""
