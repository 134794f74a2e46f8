"""Updates a second of practice where generator and learner work at the same time, against in turn.

python benchmarks/overlap.py [--quick] [--json] [--rounds 3] [--folder runs/bench/overlap]
"""

from hanok.bench.overlap import main

if __name__ == "__main__":
    main()
