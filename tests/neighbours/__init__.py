"""The promise where it is made: two clinics that differ by one patient, through everything that answers."""
