"""The partitions, one file each: who holds which samples."""
