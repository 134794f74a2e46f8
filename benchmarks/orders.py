"""Orders in text and in documents: what the detectors find and cost, with intervals, on public rows.

python benchmarks/orders.py [--quick] [--json] [--folder runs/bench]
"""

from hanok.bench.orders import main

if __name__ == "__main__":
    main()
