"""Differential privacy of every patient: gradients, sampling, noise, accounting, and the clinic's ledger."""
