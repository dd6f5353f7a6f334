"""A consortium's CA and what it has signed, for the tests of models that are signed."""

from melfed.server.clinics.certificates import make_authority, make_clinic_certificate, make_server_certificate

HOST = "coordinator.example.org"
AUTHORITY = make_authority("testing")
COORDINATOR = make_server_certificate(AUTHORITY, "testing", [HOST], 30)
CLINIC = make_clinic_certificate(AUTHORITY, "testing", "north", 30)
ANOTHER = make_authority("another")
"""Another consortium's CA."""
