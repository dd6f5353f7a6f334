"""Studies that ship with melfed."""
