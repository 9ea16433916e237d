"""A hidden Markov model of counts that sum to a total, with the interface of hmmlearn."""

from typing import Any, ClassVar

import numpy as np

from jaxem.families import Multinomial
from jaxem.families.multinomial import MultinomialParams
from jaxem.models import HMM
from jaxem.sklearn.hmm import Emission, HiddenMarkov


class MultinomialHMM(HiddenMarkov):
    """A hidden Markov model of D counts a step, which are multinomial given their total.

    The objective is log-likelihood plus log-prior. See ``GaussianHMM`` for what differs from hmmlearn.

    Arguments:
        n_components: the number of states K.
        n_trials: the total of each row, a number or (N,); default ``None``: whatever it is. Samples need one number.
        params: the letters of what is fitted: ``s`` startprob, ``t`` transmat, ``e`` emissionprob. What is left out is
            held at its value.
        startprob_prior, transmat_prior, algorithm, random_state, n_iter, tol: as for ``GaussianHMM``.
        verbose, init_params, implementation, n_init: likewise.

    Attributes:
        emissionprob_: (K, D).
        startprob_, transmat_, monitor_, model_, fit_, n_features_in_, feature_names_in_: as of ``GaussianHMM``.

    Source: Rabiner (1989); hmmlearn 0.3.3 for the interface.
    """

    _emitted: ClassVar[dict[str, Emission]] = {"e": Emission("emissionprob_", "emissions.probabilities")}
    _read: ClassVar[dict[str, Any]] = {"ensure_all_finite": True, "dtype": "numeric"}
    _of_counts: ClassVar[bool] = True

    n_trials: Any
    emissionprob_: Any  # (K, D)

    def __init__(
        self,
        n_components: int = 1,
        n_trials: Any = None,
        startprob_prior: Any = 1.0,
        transmat_prior: Any = 1.0,
        algorithm: str = "viterbi",
        random_state: Any = None,
        n_iter: int = 1000,
        tol: float = 1e-2,
        verbose: Any = False,
        params: str = "ste",
        init_params: str = "ste",
        implementation: str = "log",
        n_init: int = 1,
    ) -> None:
        self._take(locals())

    def _check_and_set_n_features(self, X: np.ndarray) -> None:
        super()._check_and_set_n_features(X)
        if not np.issubdtype(X.dtype, np.integer):
            raise ValueError("Symbol counts should be integers")
        if hasattr(self, "emissionprob_") and X.shape[1] != self._width():
            raise ValueError(f"Unexpected number of dimensions, got {X.shape[1]} but expected {self._width()}")
        if self.n_trials is not None and not (X.sum(axis=1) == np.asarray(self.n_trials)).all():
            raise ValueError("Total count for each sample should add up to the number of trials")

    def _family(self, width: int, free: str) -> Multinomial:
        return Multinomial()

    def _drawn(self) -> HMM:
        trials = np.unique(np.asarray(0 if self.n_trials is None else self.n_trials))
        if trials.size != 1 or trials[0] < 1:
            raise ValueError("For sampling, a single n_trials must be given")
        family: Any = Multinomial(int(trials[0]))
        return HMM(family, self.n_components)

    def _emissions(self, arrays: dict[str, np.ndarray]) -> MultinomialParams:
        return MultinomialParams(arrays["e"])  # pyright: ignore[reportArgumentType]

    def _arrays_of(self, emissions: Any) -> dict[str, np.ndarray]:
        return {"e": emissions.probabilities}

    def _check_emissions(self) -> None:
        width = np.shape(self.emissionprob_)[-1] if np.ndim(self.emissionprob_) else 0
        self._probabilities("emissionprob_", (self.n_components, width), "(n_components, n_features)")

    def _as_drawn(self, x: np.ndarray) -> np.ndarray:
        return x.astype(int)
