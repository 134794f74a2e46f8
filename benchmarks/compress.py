"""How far a compressed model is from the original, beside peers at no fewer bits a weight.

python benchmarks/compress.py [--quick] [--json] [--model DIR --shards DIR] [--pieces 48] [--seeds 3] [--samples 128]
    [--methods gptq awq] [--folder DIR]
"""

from hanok.bench.compress import main

if __name__ == "__main__":
    main()
