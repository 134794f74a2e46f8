"""Native CPU operations, each beside its plain PyTorch reference."""
