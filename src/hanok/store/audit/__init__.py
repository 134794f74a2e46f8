"""Who did what, kept so that nobody can change it unseen: chained rows, a Merkle tree, signed checkpoints, sealed content."""
