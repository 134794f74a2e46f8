"""The audit: appends per second with group commit and with a commit for each row; rows verified per second.

python benchmarks/audit.py [--quick] [--json] [--rounds 3] [--folder runs/bench]
"""

from hanok.bench.audit import main

if __name__ == "__main__":
    main()
