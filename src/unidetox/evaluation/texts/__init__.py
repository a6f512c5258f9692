"""What is in texts: overlap with a toxic corpus, key terms, toxicity, labels, lengths, endings, copies, diversity."""

from unidetox.evaluation.texts.describe import analyze
from unidetox.report.analysis_page import console_rows, render_analysis

__all__ = ["analyze", "console_rows", "render_analysis"]
