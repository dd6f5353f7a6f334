"""What clinics, coordinator and simulation must agree on."""
