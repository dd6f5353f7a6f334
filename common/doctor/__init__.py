"""Steps of an examination that both doctors share."""
