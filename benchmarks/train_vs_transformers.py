"""In the same time, on the same shards: our default against transformers' Llama under its Trainer.

python benchmarks/train_vs_transformers.py [--quick] [--json] [--minutes 5] [--shards DIR]
"""

from hanok.bench.train import main

if __name__ == "__main__":
    main()
