"""What happens to one batch: gates, experts, routing, mixtures and losses. Torch only."""
