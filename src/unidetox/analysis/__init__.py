"""What is in texts: overlap with a toxic corpus, key terms, toxicity, labels, lengths, endings, copies, diversity."""

from unidetox.analysis.describe import analyze
from unidetox.analysis.page import console_rows, render_analysis

__all__ = ["analyze", "console_rows", "render_analysis"]
