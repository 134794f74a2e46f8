"""What decoding heads add to the time of an answer, at the shape of Qwen3-0.6B and at 5 million parameters.

python benchmarks/decoding_cost.py [--quick] [--rounds 24] [--sizes 0.6b 5m] [--kinds int4] [--json]
"""

from hanok.bench.decoding_cost import main

if __name__ == "__main__":
    main()
