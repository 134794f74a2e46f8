"""GRPO, RLOO and PPO on the same sums from the same model: the reward at the end, and the harder village's exam.

python benchmarks/practice.py [--run runs/quickstart] [--folder DIRECTORY] [--seeds 1] [--ways grpo ppo] [--choose] [--json]
"""

from hanok.bench.practice import main

if __name__ == "__main__":
    main()
