"""What the coordinator's and a clinic's live page share: who may see it, how it is served, its style and tables."""
