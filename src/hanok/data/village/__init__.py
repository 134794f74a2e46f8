"""The embedded corpus: a fictional hanok village, written by the project itself and generated from a seed."""
