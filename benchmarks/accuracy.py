"""How far int8 and int4 weights are from the model itself, beside llama.cpp's Q8_0, Q4_0 and Q4_K_M.

python benchmarks/accuracy.py [--quick] [--json] [--model DIR --shards DIR] [--pieces 48] [--folder runs/bench/accuracy]
"""

from hanok.bench.accuracy import main

if __name__ == "__main__":
    main()
