"""What differences between configurations are worth."""
