"""Decode speed of a model without 30 % of its layers' parameters, in turns with the original.

python benchmarks/shrunk.py [--quick] [--json] [--kinds int4 int8 bf16] [--rounds 5] [--folder DIR]
"""

from hanok.bench.shrunk import main

if __name__ == "__main__":
    main()
