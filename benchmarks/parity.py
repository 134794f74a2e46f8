"""RL after next-token prediction on parity: accuracy and share of long answers before and after practice, against the law.

python benchmarks/parity.py [--folder runs/bench/parity] [--quick] [--json]
"""

from hanok.bench.parity import main

if __name__ == "__main__":
    main()
