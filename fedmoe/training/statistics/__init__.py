"""Statistics: what a client may be asked of its samples; one file each, found by its name."""
