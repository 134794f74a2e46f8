"""Distillation: a small model learns from a large one."""
