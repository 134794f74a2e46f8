"""What each method of `hanok compress` costs on one trained model, row by row; a stopped run goes on.

python benchmarks/compress_rows.py --model RUN --shards DIR [--only 'gptq-*' ...] [--seeds 3] [--folder DIR] [--json]
"""

from hanok.bench.compress_rows import main

if __name__ == "__main__":
    main()
