"""Private runs: real rows reach prompts and selection by one differentially private release alone (docs/privacy.md).

    real rows -> frozen embeddings -> sums per class -> Gaussian noise -> a Gaussian model of each class -> stand-ins

Everything behind the noise is post-processing: stand-ins drawn from that model take the place of the real rows in the
objectives, the label check, the choice and its held-out rows. ``PrivateSide`` is the way in.
"""

from gendistill.privacy.checks import check_data, check_private
from gendistill.privacy.side import PrivateSide

__all__ = ["PrivateSide", "check_data", "check_private"]
