"""DPO on abstentions of the harder village, with and without rehearsal: what is learnt, and what is forgotten for it.

python benchmarks/preferences.py [--run runs/quickstart] [--folder DIRECTORY] [--seeds 1 2 3] [--choose] [--ways ...] [--json]
"""

from hanok.bench.preferences import main

if __name__ == "__main__":
    main()
