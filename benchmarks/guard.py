"""What guard and audit cost the service: 16 streams, at the shape of Qwen3-0.6B in 4 bits.

python benchmarks/guard.py [--quick] [--json] [--rounds 5] [--folder runs/bench]
"""

from hanok.bench.guard import main

if __name__ == "__main__":
    main()
