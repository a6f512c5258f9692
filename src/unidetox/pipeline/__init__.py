"""From a recipe to a run: the order of its stages, what is checked first, what will fit, and the search of settings."""
