"""Many streams over HTTP at the shape of Qwen3-0.6B, against llama-server, OpenVINO GenAI and vLLM where they are there.

python benchmarks/serve.py [--quick] [--json] [--kinds int4 int8 bf16] [--rounds 3] [--folder runs/bench]
"""

from hanok.bench.serve import main

if __name__ == "__main__":
    main()
