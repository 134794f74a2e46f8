"""Learned temperature and top-p on the village, against greedy and the best fixed choice.

python benchmarks/autodeco.py [--run runs/quickstart] [--folder runs/bench/autodeco] [--steps 500] [--seeds 0] [--quick] [--json]
"""

from hanok.bench.autodeco import main

if __name__ == "__main__":
    main()
