"""The review queue: what people said of answers and what the guard or a check stopped, and what reviewers decide about it."""
