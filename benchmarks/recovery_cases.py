"""What one row of ``recovery.py`` consists of."""

from typing import Any, NamedTuple

import numpy as np

import jaxem


class Case(NamedTuple):
    model: Any
    truth: Any  # the parameters that the data sets are drawn from
    like: Any  # data of the shape, and with the covariates, of each data set


def with_covariates(values: tuple[int, ...], covariates: tuple[int, ...]) -> jaxem.Dataset:
    """Data of these shapes; the covariates are standard normal, drawn once, and the same in every data set."""
    return jaxem.Dataset(np.zeros(values), given=np.random.default_rng(0).normal(size=covariates))
