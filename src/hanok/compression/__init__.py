"""Step 7: smaller models. Quantisers, rotations and pruning are pure functions, `compress.py` writes directories."""
