"""Ordinary and private training of a clinic's model, and the features that it is trained on."""
