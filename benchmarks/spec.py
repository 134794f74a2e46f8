"""Answers that copy and answers that do not, with and without guessed tokens.

python benchmarks/spec.py [--quick] [--json] [--kinds int4 int8 bf16] [--rounds 5] [--folder runs/bench]
"""

from hanok.bench.spec import main

if __name__ == "__main__":
    main()
