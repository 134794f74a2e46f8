"""Training objectives: (model, batch) to a loss, one file each."""
