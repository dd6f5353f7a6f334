"""All of a clinic that knows Flower."""
