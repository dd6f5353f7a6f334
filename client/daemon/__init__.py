"""The processes of a clinic under one supervisor."""
