"""Runs of practice, each predicted from its first half and compared with its end.

python benchmarks/scaling.py [--folder runs/bench/parity] [--quick] [--json]
"""

from hanok.bench.scaling import main

if __name__ == "__main__":
    main()
