"""Rewards: functions of (prompt, completion, columns) that give a number, or None where they do not apply."""

from hanok.training.rewards.base import Prompt, Reward, Row, SkipReward
from hanok.training.rewards.batch import Mix, RewardBatch, mix, score, score_async

__all__ = ["Mix", "Prompt", "Reward", "RewardBatch", "Row", "SkipReward", "mix", "score", "score_async"]
