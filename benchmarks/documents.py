"""Search in documents: recall, times and "I don't know" on KorQuAD, against tantivy.

python benchmarks/documents.py [--quick] [--json] [--folder runs/bench]
"""

from hanok.bench.documents import main

if __name__ == "__main__":
    main()
