"""One run: from its configuration to a trained network with its scores."""
