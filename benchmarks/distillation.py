"""A quarter of the teacher, taught on its own answers or on the teacher's, from one start in equal steps.

python benchmarks/distillation.py [--run runs/quickstart] [--folder runs/bench/distillation] [--seeds 1 2 3] [--choose] [--json]
"""

from hanok.bench.distillation import main

if __name__ == "__main__":
    main()
