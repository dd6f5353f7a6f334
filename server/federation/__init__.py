"""Rounds: who takes part, what is asked, what an answer must be."""
