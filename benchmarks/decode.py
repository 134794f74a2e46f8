"""Decoding at the shape of Qwen3-0.6B, against llama.cpp.

python benchmarks/decode.py [--quick] [--json] [--kinds int4 int8 bf16] [--rounds 3] [--folder runs/bench]
"""

from hanok.bench.decode import main

if __name__ == "__main__":
    main()
