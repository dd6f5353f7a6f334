"""The researcher: virtual clinics on one machine or a Ray cluster."""
