"""Named sets and files of one's own -> rows, disjoint splits, prompts, pairs, tokens."""
