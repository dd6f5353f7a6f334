"""Which studies a clinic has agreed to, for how many runs and how much ε, and what it is shown before."""
