"""The clinic: the worker that owns its data, and the messenger that talks to Flower for it."""
