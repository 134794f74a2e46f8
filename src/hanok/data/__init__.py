"""Steps 1-3: collect, clean, split; the tokeniser's training and the token shards."""
