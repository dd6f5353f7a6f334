"""From a finished run to its summary, its model and its evaluation."""
