"""Step 8: feedback becomes data, data becomes the next model."""
