"""The report of a comparison: comparison.html and comparison.pdf."""
