"""What is measured on continuations: toxicity, perplexity, diversity, and answers to questions."""
