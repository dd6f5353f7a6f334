"""The worker's socket: messages, their encoding, the client's end, and who is at the other."""
