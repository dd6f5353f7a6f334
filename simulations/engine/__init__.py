"""The simulation engine: Flower on Ray, its worker processes and their folder."""
