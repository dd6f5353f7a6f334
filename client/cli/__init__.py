"""The commands of `melfed-client`."""
