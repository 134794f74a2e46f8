"""Running untrusted Python: its own process, limits, no network, no files but its own."""

from hanok.sandbox.api import Limits, Outcome, SandboxReport, Status
from hanok.sandbox.run import probe, run_code

__all__ = ["Limits", "Outcome", "SandboxReport", "Status", "probe", "run_code"]
