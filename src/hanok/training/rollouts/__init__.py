"""RL with checkable rewards: the engine writes answers, rewards judge them, the loop learns.

The one place in training that may import the engine.
"""
