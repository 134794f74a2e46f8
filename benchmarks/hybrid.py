"""Reading prompts with a hybrid of the size of Qwen3-0.6B, against its own layers in PyTorch.

python benchmarks/hybrid.py [--quick] [--json] [--kinds int4 int8 bf16] [--rounds 3] [--lengths 512 4096] [--folder runs/bench]
"""

from hanok.bench.hybrid import main

if __name__ == "__main__":
    main()
