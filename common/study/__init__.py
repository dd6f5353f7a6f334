"""What a study states: its protocol, its file, and the network that is built from it."""
