"""Pictures of any form as 8-bit sRGB pixels, decoded once and kept."""
