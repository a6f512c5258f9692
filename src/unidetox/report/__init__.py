"""From `results.json` to tables, pictures, a page and cards. Computes no metric, loads no model."""
