"""A page for a phone: a model that runs in the browser, offline, from static files."""
