"""What the claims are measured against: the papers' thresholds, and ours where they give none."""

KEPT, LEVEL = 0.9, 0.05  # "over 90 %" of performance; better than chance at the 5 % level
DROPPED = 0.25  # of the layers
BYTE_ENTROPY = 4.5  # bits a byte of English for who knows how frequent each byte is, about 4.7
FEWEST_BLOCKS = 8  # with fewer, only a perfect ranking would be told from chance
SMALL_EFFECT = 0.2  # Cohen's: what is called a pattern has to reach it
PRIMARY_TASK, CLAIMED_ARM = "sciq", "avss"
RATE_FALL, ERROR_FALL = 0.12, 0.34  # of the hallucination rate and of ECE, read as relative
GUIDED, ERROR_BINS = "eavss top", 15
ROOM = 0.05  # a model that has fewer of its own answers right cannot show that it gives more
