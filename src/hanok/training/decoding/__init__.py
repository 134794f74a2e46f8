"""Decoding heads: trained on a frozen model, and taught to follow "be certain" and "be inventive"."""
