"""From a data folder to virtual clinics."""
