"""Rows of ``recovery.py``: mixtures of one or two classes of each family.

One line for each family: its name, the family, its parameters, and the number of observations of a data set.
"""

from typing import Any

import jax
import numpy as np
from recovery_cases import Case

from jaxem.families import (
    Bernoulli,
    BernoulliParams,
    Beta,
    BetaParams,
    Binomial,
    BinomialParams,
    Censored,
    Gamma,
    GammaParams,
    LogNormal,
    Multinomial,
    MultinomialParams,
    MultivariateStudentT,
    MultivariateStudentTParams,
    NegativeBinomial,
    NegativeBinomialParams,
    Normal,
    NormalParams,
    Poisson,
    PoissonParams,
    PoissonVector,
    PoissonVectorParams,
    StudentT,
    StudentTParams,
    Truncated,
    VonMises,
    VonMisesParams,
    Weibull,
    WeibullParams,
    ZeroInflated,
    ZeroInflatedParams,
)
from jaxem.models import Mixture, MixtureParams


def mixture(family: Any, params: Any, *shape: int) -> Case:
    """Data sets of this shape from a mixture, of two classes with weights 0.4 and 0.6 or of one."""
    params = jax.tree.map(np.array, params, is_leaf=lambda p: isinstance(p, float) or type(p) is tuple)
    k = max(leaf.shape[0] for leaf in jax.tree.leaves(params) if leaf.ndim)
    truth = MixtureParams(np.array([0.4, 0.6] if k == 2 else [1.0]), params)
    return Case(Mixture(family, k), truth, np.zeros(shape))


FIVE = (0.85, 0.8, 0.75, 0.8, 0.7), (0.2, 0.25, 0.2, 0.15, 0.3)
GROUPED = Censored(Normal(), edges=range(-3, 8)), NormalParams((0.0, 4.0), (1.0, 1.5))

FAMILIES = {
    "Normal": mixture(Normal(), NormalParams((0.0, 4.0), (1.0, 1.5)), 400),
    "Bernoulli, five columns": mixture(Bernoulli(), BernoulliParams(FIVE), 500, 5),
    "Gamma": mixture(Gamma(), GammaParams((2.0, 20.0), (2.0, 4.0)), 500),
    "Gamma, N = 2000": mixture(Gamma(), GammaParams((2.0, 20.0), (2.0, 4.0)), 2000),
    "LogNormal": mixture(LogNormal(), NormalParams((0.0, 2.0), (0.5, 0.2)), 500),
    "Beta": mixture(Beta(), BetaParams((2.0, 12.0), (8.0, 4.0)), 500),
    "VonMises": mixture(VonMises(), VonMisesParams((-1.0, 1.5), (4.0, 8.0)), 500),
    "Binomial": mixture(Binomial(10), BinomialParams((0.2, 0.6)), 500),
    "Multinomial": mixture(Multinomial(20), MultinomialParams(((0.2, 0.5, 0.3), (0.5, 0.2, 0.3))), 500, 3),
    "PoissonVector": mixture(PoissonVector(), PoissonVectorParams(((1.0, 4.0, 2.0), (5.0, 3.0, 2.0))), 500, 3),
    "Weibull": mixture(Weibull(), WeibullParams((1.5, 5.0), (1.0, 6.0)), 500),
    # Families with hidden variables.
    "StudentT": mixture(StudentT(), StudentTParams((0.0, 8.0), (1.0, 2.0), (0.3, 0.2)), 1000),
    "StudentT, tied": mixture(StudentT("tied"), StudentTParams((0.0, 8.0), (1.0, 2.0), 0.25), 1000),
    "MultivariateStudentT": mixture(
        MultivariateStudentT(),
        MultivariateStudentTParams(((1.0, -1.0),), (((1.0, 0.5), (0.5, 2.0)),), (0.25,)),
        400,
        2,
    ),
    "NegativeBinomial": mixture(NegativeBinomial(), NegativeBinomialParams((2.0, 25.0), (0.5, 0.2)), 1000),
    "ZeroInflated Poisson": mixture(ZeroInflated(Poisson()), ZeroInflatedParams((0.3,), PoissonParams((3.0,))), 400),
    "ZeroInflated NegativeBinomial": mixture(
        ZeroInflated(NegativeBinomial()), ZeroInflatedParams((0.3,), NegativeBinomialParams((8.0,), (0.3,))), 600
    ),
    # Observations seen in part.
    "Censored Normal": mixture(*GROUPED, 500, 2),
    "Censored Normal, N = 2000": mixture(*GROUPED, 2000, 2),
    "Censored Weibull": mixture(Censored(Weibull(), limits=(0.2, 1.2)), WeibullParams((1.5,), (1.0,)), 200, 2),
    "Truncated Normal": mixture(Truncated(Normal(), -0.5, 2.0), NormalParams((0.5,), (1.0,)), 1000),
}
