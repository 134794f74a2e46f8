"""Reward models from 2,000 village pairs, a tenth of them labelled the wrong way round, on clean pairs that were held out.

python benchmarks/reward_models.py [--run runs/quickstart] [--folder runs/bench/reward-models] [--seeds 1 2 3] [--choose] [--json]
"""

from hanok.bench.reward_models import main

if __name__ == "__main__":
    main()
