"""The experts, one file a backbone: input -> class logits, and the embedding on the way."""
