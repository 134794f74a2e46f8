"""The tokeniser and chat template at run time."""
