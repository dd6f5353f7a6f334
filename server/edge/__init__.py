"""The only open port of a deployment: nginx and its configuration."""
