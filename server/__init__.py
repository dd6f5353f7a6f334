"""The coordinator: rounds, aggregation, evaluation, checkpoints, report."""
