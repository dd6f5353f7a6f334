"""A run's folder: study, state, checkpoints, outcome, summary."""
