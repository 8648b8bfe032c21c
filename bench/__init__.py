"""The bench: how fast Palaver is, as ratios to floors measured in the same run."""
