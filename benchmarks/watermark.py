"""What the watermark finds, whom it accuses, and what it costs: a small model of our own in Korean and English.

python benchmarks/watermark.py [--quick] [--json] [--rounds 6] [--folder runs/bench]
"""

from hanok.bench.watermark import main

if __name__ == "__main__":
    main()
