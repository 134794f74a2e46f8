"""What standards ask for, and what answers for it in this house, read from settings, policy and audit."""
