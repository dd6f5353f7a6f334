"""A trained model in an open format, with what whoever uses it must know."""
