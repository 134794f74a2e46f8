"""Step 6: verify a model and compare two."""
