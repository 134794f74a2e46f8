"""One stream of a model of 5 million parameters, against llama.cpp and transformers, and Python's share of a step.

python benchmarks/small.py [--quick] [--json] [--kinds int4 int8 bf16] [--rounds 5] [--folder runs/bench]
"""

from hanok.bench.small import main

if __name__ == "__main__":
    main()
