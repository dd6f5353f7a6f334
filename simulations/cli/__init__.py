"""The commands of `melfed-sim`."""
