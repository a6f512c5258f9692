"""From a model to numbers: generations, scores, likelihoods, answers; results, and comparisons of them."""
