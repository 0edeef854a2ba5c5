"""Baselines, registered through entry points exactly as an outside package registers its own methods."""
