"""DPO on public preferences about harm and GRPO on public word problems, each measured on rows that were held out.

python benchmarks/public_alignment.py --run RUN [--folder DIRECTORY] [--seeds 1] [--ways dpo grpo] [--steps 60] [--json]
"""

from hanok.bench.public_alignment import main

if __name__ == "__main__":
    main()
