"""The logic of `hanok bench`; files in `benchmarks/` are short entries into it."""
