"""Rows of ``recovery.py``: hidden Markov models and state-space models."""

import numpy as np
from recovery_cases import Case, with_covariates

from jaxem.families import Normal, NormalParams, Poisson, PoissonParams, Regression, RegressionParams
from jaxem.gates import Softmax, SoftmaxParams
from jaxem.models import HMM, HMMParams, StateSpaceParams, arma, local_level

POISSON = HMMParams(np.array([0.5, 0.5]), np.array([[0.8, 0.2], [0.3, 0.7]]), PoissonParams(np.array([1.0, 6.0])))
DRIVEN = HMMParams(
    np.array([0.4, 0.6]),
    SoftmaxParams(np.array([[[0.8, 0.4], [-0.8, -0.4]], [[-0.5, 0.6], [0.5, -0.6]]])),
    NormalParams(np.array([0.0, 2.5]), np.array([1.0, 0.7])),
)
REGRESSIONS = HMMParams(
    np.array([0.4, 0.6]),
    np.array([[0.9, 0.1], [0.2, 0.8]]),
    RegressionParams(np.array([[0.5, 1.0, -0.5], [2.5, -1.0, 0.3]]), None, np.array([0.5, 0.3])),
)


def one_state(transition: float, process: float, noise: float) -> StateSpaceParams:
    """One hidden state, seen with noise, the first of which is diffuse."""
    one = np.ones((1, 1))
    return StateSpaceParams(None, None, transition * one, None, np.array([process]), one, None, np.array([noise]))


CHAINS = {
    "chain of Poisson counts": Case(HMM(Poisson(), 2), POISSON, np.zeros((60, 20))),
    "chain of normals, moves by a covariate": Case(
        HMM(Normal(), 2, transition=Softmax()), DRIVEN, with_covariates((50, 25), (50, 25))
    ),
    "chain of normal regressions": Case(
        HMM(Regression(Normal()), 2), REGRESSIONS, with_covariates((60, 20), (60, 20, 2))
    ),
    "local level, 400 steps": Case(local_level(), one_state(1.0, 0.5, 1.0), np.zeros((1, 400, 1))),
    "first-order autoregression seen with noise, 500 steps": Case(
        arma(1), one_state(0.8, 1.0, 1.0), np.zeros((1, 500, 1))
    ),
}
