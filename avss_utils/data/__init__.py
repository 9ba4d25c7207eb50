"""Named sets and a user's own files -> rows with disjoint splits, prompts, pairs and token rows."""
