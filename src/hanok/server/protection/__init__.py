"""Against theft and leakage: the watermark on answers, caps on log-probabilities, the monitor of extraction."""
