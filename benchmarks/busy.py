"""How much of its speed decoding keeps while another process takes a core, beside llama.cpp.

python benchmarks/busy.py [--quick] [--json] [--kinds int4 int8 bf16] [--rounds 5] [--folder runs/bench]
"""

from hanok.bench.busy import main

if __name__ == "__main__":
    main()
