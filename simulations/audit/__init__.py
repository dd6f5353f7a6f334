"""Tests the privacy that melfed promises, where it is promised: at the door of a clinic's worker."""
