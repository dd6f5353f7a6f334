"""Synthetic skin lesions with a known answer."""
