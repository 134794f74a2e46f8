"""Thinking in chunks against one long context: state held, tokens attended to, and what practice makes of both.

python benchmarks/delethink.py [--folder runs/bench/delethink] [--quick] [--json]
"""

from hanok.bench.delethink import main

if __name__ == "__main__":
    main()
