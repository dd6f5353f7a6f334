"""A clinic's live page: `melfed-client page`."""
