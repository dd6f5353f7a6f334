"""Measurements behind the figures of docs/measured.md, one command each."""
