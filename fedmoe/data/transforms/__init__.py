"""What a domain does to its images: one file a transform, uint8 NCHW in, uint8 NCHW of equal shape out."""
