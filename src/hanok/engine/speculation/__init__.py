"""Guesses at the next tokens, verified in one step: answers stay what they are, token by token."""
