"""Products with codes that have zero points, in turns with products without.

python benchmarks/zero_points.py [--quick] [--json] [--kinds int4 int8] [--rounds 21]
"""

from hanok.bench.zero_points import main

if __name__ == "__main__":
    main()
