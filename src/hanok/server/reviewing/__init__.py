"""What the server puts into the review queue, and how it shows it."""
