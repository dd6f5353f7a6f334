"""From clinics' updates to the next global model: means, robust means, server optimisers."""
