"""The only part of a clinic that reads its images: answers requests, and decides what may leave."""
