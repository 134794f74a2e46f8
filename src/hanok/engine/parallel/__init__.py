"""One model in several processes (tensor parallelism), started by `torchrun`: the first one leads, the others follow."""
