"""Class-wise moments of a clinic's features, with noise: what a study of one round is solved from."""
