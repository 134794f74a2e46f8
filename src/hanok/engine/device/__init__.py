"""The engine on a GPU, or on whatever device PyTorch runs: the same layers, scheduler and blocks."""
