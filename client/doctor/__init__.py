"""What `melfed-client doctor` examines: the clinic's kit, data, machine, network and budget."""
