"""Rows of ``recovery.py``: gates on covariates, and items."""

import numpy as np
from recovery_cases import Case, with_covariates

from jaxem.families import Categorical, CategoricalParams, ItemResponseParams, Normal, NormalParams
from jaxem.gates import Softmax, SoftmaxParams
from jaxem.models import ItemResponse, Mixture, MixtureParams

EXPERTS = MixtureParams(
    SoftmaxParams(np.array([[0.3, 0.8, -0.5], [-0.3, -0.8, 0.5]])),
    NormalParams(np.array([0.0, 4.0]), np.array([1.0, 1.5])),
)

# Of each class, the probability that an item is solved; six items, of three kinds.
SOLVED = 2 * [np.array([0.9, 0.5, 0.1]), np.array([0.85, 0.2, 0.15]), np.array([0.9, 0.8, 0.2])]
LATENT_CLASSES = MixtureParams(
    SoftmaxParams(np.array([[0.2, 0.9], [0.1, -0.1], [-0.3, -0.8]])),
    CategoricalParams(tuple(np.stack([1 - p, p], axis=1) for p in SOLVED)),
)

TWO_LEVELS = ItemResponseParams(np.array([1.0, 1.5, 0.8, 1.2, 2.0, 1.0]), np.array([1.0, 0.0, -0.5, 0.5, -1.0, 0.3]))
GRADED = ItemResponseParams(
    np.array([1.0, 1.5, 0.8, 1.2, 1.8]),
    tuple(np.array(b) for b in ([1.0, -1.0], [1.5, 0.0, -1.5], [0.5], [0.5, -0.5], [2.0, 0.5, -1.0])),
)

GATES = {
    "experts of two normal classes": Case(
        Mixture(Normal(), 2, gate=Softmax()), EXPERTS, with_covariates((600,), (600, 2))
    ),
    "three latent classes with a covariate": Case(
        Mixture(Categorical((2,) * 6), 3, gate=Softmax()), LATENT_CLASSES, with_covariates((1500, 6), (1500, 1))
    ),
    "two-parameter logistic items": Case(ItemResponse("2pl", points=21), TWO_LEVELS, np.zeros((1000, 6))),
    "graded items": Case(ItemResponse("graded", (3, 4, 2, 3, 4), points=21), GRADED, np.zeros((1000, 5))),
}
