"""What was charged to a clinic's patients, and what is left."""
