"""Zero-shot accuracy on unseen clients, fairness, prior correction, routing and specialisation measures."""
