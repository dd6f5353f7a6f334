"""All of the server that knows Flower."""
