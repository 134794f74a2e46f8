"""TOML recipe to typed steps to a run that can be resumed."""
