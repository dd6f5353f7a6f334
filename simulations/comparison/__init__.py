"""Many studies beside each other: a grid over a study's keys, run cell by cell, and what may be said of differences."""
