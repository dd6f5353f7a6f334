"""Published and clinical tables of skin lesions: read, understood, and joined to their pictures."""
