"""Step 7: smaller models. Quantisers, rotations and pruning are pure functions, one small file each."""
