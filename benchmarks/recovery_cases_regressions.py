"""Rows of ``recovery.py``: mixtures of one or two regressions on a constant and two covariates."""

from typing import Any

import numpy as np
from recovery_cases import Case, with_covariates

from jaxem.families import (
    Bernoulli,
    Binomial,
    Censored,
    Gamma,
    NegativeBinomial,
    Normal,
    Poisson,
    Regression,
    RegressionParams,
    StudentT,
)
from jaxem.models import Mixture, MixtureParams

TWO = np.array([[0.5, 1.0, -0.5], [2.5, -1.0, 0.3]])
ONE = TWO[:1]
SPREAD = np.array([0.5, 0.3])


def mixture(family: Any, n: int, coefficients: Any, shared: Any = None, spread: Any = None) -> Case:
    k = coefficients.shape[0]
    truth = MixtureParams(np.array([0.4, 0.6] if k == 2 else [1.0]), RegressionParams(coefficients, shared, spread))
    ends = (2,) if isinstance(family.family, Censored) else ()
    return Case(Mixture(family, k), truth, with_covariates((n, *ends), (n, 2)))


SHARED = TWO[:, :2], np.array([0.4]), np.array(0.5)
TOBIT = Regression(Censored(Normal(), limits=(0.0, np.inf)))

REGRESSIONS = {
    "normal regression": mixture(Regression(Normal()), 400, TWO, None, SPREAD),
    "normal regression, N = 1600": mixture(Regression(Normal()), 1600, TWO, None, SPREAD),
    "normal regression, a shared column": mixture(Regression(Normal(), tied=1, dispersion="tied"), 400, *SHARED),
    "normal regression, a shared column, N = 1600": mixture(
        Regression(Normal(), tied=1, dispersion="tied"), 1600, *SHARED
    ),
    "t regression, 5 degrees of freedom": mixture(Regression(StudentT(5.0)), 400, TWO, None, SPREAD),
    "tobit regression": mixture(TOBIT, 300, ONE, None, SPREAD[:1]),
    "Poisson regression": mixture(Regression(Poisson()), 400, TWO),
    "Poisson regression, N = 1600": mixture(Regression(Poisson()), 1600, TWO),
    "negative binomial regression": mixture(Regression(NegativeBinomial()), 400, ONE, None, SPREAD[:1]),
    "negative binomial regression, N = 1600": mixture(Regression(NegativeBinomial()), 1600, ONE, None, SPREAD[:1]),
    "gamma regression": mixture(Regression(Gamma()), 400, TWO, None, SPREAD),
    "gamma regression, N = 1600": mixture(Regression(Gamma()), 1600, TWO, None, SPREAD),
    "binomial regression, 10 trials": mixture(Regression(Binomial(10)), 400, TWO),
    "binomial regression, 10 trials, N = 1600": mixture(Regression(Binomial(10)), 1600, TWO),
    "probit regression": mixture(Regression(Bernoulli(), "probit"), 400, ONE),
}
