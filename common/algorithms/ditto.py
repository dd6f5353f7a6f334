"""Ditto (Li et al., arXiv 2012.04221, algorithm 1): beside the global model, a personal one that is held to it.

The global model is that of federated averaging. Each clinic trains a second model v by as many steps on
F(v) + λ/2 ‖v - w‖², with w the global model of the round and λ `federation.proximal_mu`; it stays at the clinic, and is
what is judged there. In a private study both trainings are noised and charged: a round costs twice the steps.
"""

from melfed.common.algorithms.algorithm import Algorithm

ALGORITHM = Algorithm(personal_model=True)
