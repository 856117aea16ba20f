"""Train one run: from its configuration to a trained and scored network."""
