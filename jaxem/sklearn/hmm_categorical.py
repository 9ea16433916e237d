"""A hidden Markov model of codes, with the interface of hmmlearn."""

from typing import Any, ClassVar

import numpy as np

from jaxem.families import Categorical, DirichletPrior
from jaxem.families.categorical import CategoricalParams
from jaxem.sklearn.hmm import Emission, HiddenMarkov
from jaxem.sklearn.hmm_reading import concentration


class CategoricalHMM(HiddenMarkov):
    """A hidden Markov model of one code a step, 0, ..., ``n_features`` - 1.

    The objective is log-likelihood plus log-prior, of Dirichlet priors. See ``GaussianHMM`` for what differs from
    hmmlearn.

    Arguments:
        n_components: the number of states K.
        emissionprob_prior: concentration of the Dirichlet prior of each row of ``emissionprob_``, at least 1; a number,
            or one for each code, the same for all states.
        n_features: the number of codes L; default: one more than the largest in X, which the attribute becomes by a
            fit.
        params: the letters of what is fitted: ``s`` startprob, ``t`` transmat, ``e`` emissionprob. What is left out is
            held at its value.
        startprob_prior, transmat_prior, algorithm, random_state, n_iter, tol: as for ``GaussianHMM``.
        verbose, init_params, implementation, n_init: likewise.

    Attributes:
        emissionprob_: (K, L).
        startprob_, transmat_, monitor_, model_, fit_, n_features_in_, feature_names_in_: as of ``GaussianHMM``.

    Source: Rabiner (1989); hmmlearn 0.3.3 for the interface.
    """

    _emitted: ClassVar[dict[str, Emission]] = {"e": Emission("emissionprob_", "emissions.probabilities.0")}
    _read: ClassVar[dict[str, Any]] = {"dtype": "numeric"}
    _of_counts: ClassVar[bool] = True
    _shaping: ClassVar[tuple[str, ...]] = ("n_components", "n_features")

    emissionprob_prior: Any
    emissionprob_: Any  # (K, L)

    def __init__(
        self,
        n_components: int = 1,
        startprob_prior: Any = 1.0,
        transmat_prior: Any = 1.0,
        *,
        emissionprob_prior: Any = 1.0,
        n_features: int | None = None,
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

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of the constructor, by name; ``n_features`` is what was given, also after a fit.

        Arguments:
            deep: not used.

        Returns:
            A dict.
        """
        return super().get_params(deep) | {"n_features": self._n_features}

    @property
    def n_features(self) -> int | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """L, the number of codes: what was given, else that of ``emissionprob_``."""
        if self._n_features is None and hasattr(self, "emissionprob_"):
            return self._width()
        return self._n_features

    @n_features.setter
    def n_features(self, value: int | None) -> None:
        self._n_features = value

    def _check_and_set_n_features(self, X: np.ndarray) -> None:
        super()._check_and_set_n_features(X)
        codes = X[~np.isnan(X)] if X.dtype.kind == "f" else X
        gaps = codes.size < X.size
        if not (np.issubdtype(X.dtype, np.integer) or (gaps and (codes == np.round(codes)).all())):
            raise ValueError("Symbols should be integers")
        if self._n_features is not None and codes.size and codes.max() >= self._n_features:
            raise ValueError(
                f"Largest symbol is {codes.max()} but the model only emits symbols up to {self._n_features - 1}"
            )

    def _checked_matrix(self, X: Any, reset: bool) -> np.ndarray:
        X = super()._checked_matrix(X, reset)
        if X.shape[1] != 1:
            raise ValueError(f"X must have one column of symbols, shape (n_samples, 1); it has {X.shape}")
        if not reset and np.nanmax(X) >= self._width():
            raise ValueError(
                f"Largest symbol is {np.nanmax(X)} but the model only emits symbols up to {self._width() - 1}"
            )
        return X

    def _width_of(self, X: np.ndarray) -> int:
        if "e" not in self.init_params and hasattr(self, "emissionprob_"):
            return self._width()
        return self._n_features or int(np.nanmax(X)) + 1

    def _family(self, width: int, free: str) -> Categorical:
        prior = concentration(self, "emissionprob_prior", (self.n_components, width)) if "e" in free else None
        if prior is None:
            return Categorical((width,))
        if (prior != prior[:1]).any():
            raise ValueError("emissionprob_prior must be the same for all states: a number, or one for each symbol")
        return Categorical((width,), DirichletPrior(prior[0]))

    def _emissions(self, arrays: dict[str, np.ndarray]) -> CategoricalParams:
        return CategoricalParams((arrays["e"],))  # pyright: ignore[reportArgumentType]

    def _arrays_of(self, emissions: Any) -> dict[str, np.ndarray]:
        return {"e": emissions.probabilities[0]}

    def _check_emissions(self) -> None:
        width = self._n_features or (self._width() if np.ndim(self.emissionprob_) else 0)
        self._probabilities("emissionprob_", (self.n_components, width), "(n_components, n_features)")
