"""The models that a clinic was sent, and what it does with them. Nothing of it leaves the clinic."""
