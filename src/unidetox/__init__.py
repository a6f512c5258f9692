"""UniDetox: distil once, detoxify any causal language model."""

__version__ = "0.1.0"
