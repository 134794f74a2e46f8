"""Alignment: preferences into better models, through the same loop as everything else."""
