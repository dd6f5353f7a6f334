"""The commands of `melfed-server`."""
