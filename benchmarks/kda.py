"""Delta attention on this processor against softmax attention and the other forms of delta attention.

python benchmarks/kda.py [--quick] [--json] [--lengths 512 2048]
"""

from hanok.bench.kda import main

if __name__ == "__main__":
    main()
