"""Hyper-parameters by the paper's rule: the least toxic on validation prompts that keeps fluency, then carried over."""

from unidetox.tuning.search import Objective, Score, Trial
from unidetox.tuning.study import tune, tuned_rows

__all__ = ["Objective", "Score", "Trial", "tune", "tuned_rows"]
