"""Recipes: their sections, presets, reading, checking and writing; the names of the methods."""
