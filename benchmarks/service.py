"""What the service costs beside its engine: 16 streams, and 2,000 idle connections, at the shape of Qwen3-0.6B in 4 bits.

python benchmarks/service.py [--quick] [--json] [--rounds 5] [--folder runs/bench]
"""

from hanok.bench.service import main

if __name__ == "__main__":
    main()
