"""Puzzles with known answers, for small studies of reasoning: token shards to learn from and prompts to practise on."""
