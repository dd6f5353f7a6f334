"""From a consortium file to the kits of the server and the clinics."""
