"""AI feedback: a judge labels pairs by a constitution, a critic revises answers by it; both become data for alignment."""
