"""Audit logs: events, and the hash chain that they stand in."""
