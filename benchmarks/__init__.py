"""The speed claims, each measured side by side with a peer in one run."""
