"""Whatever reads foreign bytes, given damaged ones: a table of targets, one a reader."""
