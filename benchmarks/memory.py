"""What an engine takes up, bare, loaded and with a full cache, and how long a first and a further start take.

python benchmarks/memory.py [--quick] [--json] [--kinds int4 int8 bf16] [--rounds 3] [--folder runs/bench]
"""

from hanok.bench.memory import main

if __name__ == "__main__":
    main()
