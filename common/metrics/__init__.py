"""How good a classifier is: histograms of scores, metrics, curves and intervals."""
