"""Child processes: started, supervised, logged."""
