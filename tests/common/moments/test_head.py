"""A head as a network holds it, and the AUROC of normal scores."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from melfed.common.moments.head import Head, binormal_auroc


def test_the_binormal_auroc_is_that_of_normal_scores() -> None:
    random = np.random.default_rng(0)
    scores = np.concatenate([random.normal(0, 1, 50_000), random.normal(1, 2, 50_000)])
    assert binormal_auroc(1.0, 5.0) == pytest.approx(roc_auc_score(np.repeat([0, 1], 50_000), scores), abs=0.005)


def test_the_tensors_are_those_of_a_network() -> None:
    tensors = Head(np.arange(3.0), 0.5).tensors()
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()} == {
        "head.weight": ((1, 3), np.float32),
        "head.bias": ((1,), np.float32),
    }
