"""What a notebook calls, and the commands: a study to change, a run of it, and what the run gives."""
