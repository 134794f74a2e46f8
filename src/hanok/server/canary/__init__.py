"""A model on trial: a share of the conversations goes to it, and both are compared before everybody gets it."""
