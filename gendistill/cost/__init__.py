"""What a run would cost, before it is paid for: a small sample is measured, and the rest predicted from it.

``measure_sample`` does a little of the job; ``predict`` says what the whole takes, to any number of candidates and on
any cluster. docs/cost.md has what is predicted from what, and predictions beside real runs.
"""

from gendistill.cost.estimate import Estimate
from gendistill.cost.measuring import check_plannable, measure_sample
from gendistill.cost.model import Cluster, Costs, cluster_of, predict
from gendistill.cost.sample import Sample

__all__ = ["Cluster", "Costs", "Estimate", "Sample", "check_plannable", "cluster_of", "measure_sample", "predict"]
