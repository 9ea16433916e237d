"""A hidden Markov model of counts, with the interface of hmmlearn."""

from typing import Any, ClassVar

import numpy as np

from jaxem.families import GammaPrior, PoissonVector
from jaxem.families.poisson_vector import PoissonVectorParams
from jaxem.sklearn.hmm import Emission, HiddenMarkov
from jaxem.sklearn.hmm_reading import broadcast


class PoissonHMM(HiddenMarkov):
    r"""A hidden Markov model of D independent Poisson counts a step.

    The objective is log-likelihood plus log-prior. See ``GaussianHMM`` for what differs from hmmlearn. The prior of a
    rate is the gamma distribution that hmmlearn documents, of shape a = ``lambdas_prior`` and rate b =
    ``lambdas_weight``, so that the M-step is

    .. math:: \lambda_k = \frac{a - 1 + \sum_n r_{nk}\, x_n}{b + \sum_n r_{nk}}

    hmmlearn's own update counts the steps of all states in the place of those of state k, which maximises no density.

    Arguments:
        n_components: the number of states K.
        lambdas_prior: a, at least 1, a number or one for each column (D,), the same for all states; 0 together with
            ``lambdas_weight=0``: no prior.
        lambdas_weight: b, positive, likewise.
        params: the letters of what is fitted: ``s`` startprob, ``t`` transmat, ``l`` lambdas. What is left out is held
            at its value.
        startprob_prior, transmat_prior, algorithm, random_state, n_iter, tol: as for ``GaussianHMM``.
        verbose, init_params, implementation, n_init: likewise.

    Attributes:
        lambdas_: (K, D), the rates.
        startprob_, transmat_, monitor_, model_, fit_, n_features_in_, feature_names_in_: as of ``GaussianHMM``.

    Source: Rabiner (1989); hmmlearn 0.3.3 for the interface.
    """

    _emitted: ClassVar[dict[str, Emission]] = {"l": Emission("lambdas_", "emissions.rates")}
    _of_counts: ClassVar[bool] = True

    lambdas_prior: Any
    lambdas_weight: Any
    lambdas_: Any  # (K, D), the rates

    def __init__(
        self,
        n_components: int = 1,
        startprob_prior: Any = 1.0,
        transmat_prior: Any = 1.0,
        lambdas_prior: Any = 0.0,
        lambdas_weight: Any = 0.0,
        algorithm: str = "viterbi",
        random_state: Any = None,
        n_iter: int = 1000,
        tol: float = 1e-2,
        verbose: Any = False,
        params: str = "stl",
        init_params: str = "stl",
        implementation: str = "log",
        n_init: int = 1,
    ) -> None:
        self._take(locals())

    def _family(self, width: int, free: str) -> PoissonVector:
        shape = (self.n_components, width)
        a = broadcast("lambdas_prior", self.lambdas_prior, shape)
        b = broadcast("lambdas_weight", self.lambdas_weight, shape)
        if "l" not in free or not (a.any() or b.any()):
            return PoissonVector()
        if (a != a[:1]).any() or (b != b[:1]).any():
            raise ValueError("lambdas_prior and lambdas_weight must be the same for all states")
        if (a < 1).any() or (b <= 0).any():
            raise ValueError(
                "lambdas_prior must be at least 1 and lambdas_weight positive (or both 0: no prior): below, the "
                f"density of a rate is unbounded at 0 or improper; got {self.lambdas_prior} and {self.lambdas_weight}"
            )
        return PoissonVector(GammaPrior(a[0], b[0]))

    def _emissions(self, arrays: dict[str, np.ndarray]) -> PoissonVectorParams:
        return PoissonVectorParams(arrays["l"])  # pyright: ignore[reportArgumentType]

    def _arrays_of(self, emissions: Any) -> dict[str, np.ndarray]:
        return {"l": emissions.rates}

    def _check_emissions(self) -> None:
        self.lambdas_ = rates = self._floats("lambdas_")
        if rates.ndim != 2 or len(rates) != self.n_components or not (rates >= 0).all():
            raise ValueError(f"lambdas_ must be rates of shape (n_components, n_features); they have {rates.shape}")

    def _as_drawn(self, x: np.ndarray) -> np.ndarray:
        return x.astype(int)
