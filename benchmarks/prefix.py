"""The first token of a second turn, with and without the first one in the cache.

python benchmarks/prefix.py [--quick] [--json] [--models attention hybrid] [--kind int4] [--rounds 3] [--folder runs/bench]
"""

from hanok.bench.prefix import main

if __name__ == "__main__":
    main()
