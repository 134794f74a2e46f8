"""Feedback is training data that anybody who may chat can write: what is looked for before a model learns from it."""
