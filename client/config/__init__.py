"""What a clinic says: clinic.yaml, its policy, its approvals, and where its files are."""
