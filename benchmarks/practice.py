"""GRPO, RLOO and PPO on the same sums from the same model: the reward at the end, and the harder village's exam.

python benchmarks/practice.py [--run runs/quickstart] [--folder runs/bench/practice] [--seeds 1] [--methods grpo ppo] [--json]
"""

from hanok.bench.practice import main

if __name__ == "__main__":
    main()
