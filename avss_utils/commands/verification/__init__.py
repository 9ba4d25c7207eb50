"""Is what the committed records say still what the code computes? A small sample, on the CPU."""

from avss_utils.commands.verification.replay import model_on_cpu
from avss_utils.commands.verification.verifying import (
    DIFFERS,
    HEAD,
    Row,
    each_record,
    read_checks,
    verify_record,
)

__all__ = ["DIFFERS", "HEAD", "Row", "each_record", "model_on_cpu", "read_checks", "verify_record"]
