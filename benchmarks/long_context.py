"""A hybrid against the same model with latent, and with grouped-query, attention everywhere, up to a million tokens of context.

python benchmarks/long_context.py [--quick] [--json] [--contexts 4096 1048576] [--folder runs/bench]
"""

from hanok.bench.long_context import main

if __name__ == "__main__":
    main()
