"""Many runs of one simulation: a grid of settings, resumable, a few at a time."""
