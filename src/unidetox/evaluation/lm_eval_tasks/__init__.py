"""Tasks for lm-evaluation-harness: ``lm_eval run --include_path THIS_FOLDER --tasks unidetox_toxigen``."""
