"""Step 7: generation. `engine.api` fixes the types that everybody calls."""
