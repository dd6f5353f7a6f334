"""The coordinator's live page: `melfed-server watch --page`."""
