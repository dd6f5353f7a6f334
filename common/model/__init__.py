"""Networks: backbones, heads, weights, normalisation, frozen parts, inference."""
