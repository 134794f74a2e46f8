"""Step 5: one loop, objectives as functions."""
