"""A hidden Markov model whose emissions are mixtures of normals, with the interface of hmmlearn."""

from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from jaxem.families import MultivariateNormal, PriorObservations
from jaxem.families.multivariate_normal import MultivariateNormalParams
from jaxem.gates import Constant
from jaxem.models import Component, Mixture
from jaxem.models.mixture_params import MixtureParams
from jaxem.sklearn.hmm import Emission, HiddenMarkov
from jaxem.sklearn.hmm_reading import broadcast, concentration
from jaxem.sklearn.starts import by_kmeans


class GMMHMM(HiddenMarkov):
    r"""A hidden Markov model whose emissions are mixtures of M normal distributions, one mixture for each state.

    The objective is log-likelihood plus log-prior. See ``GaussianHMM`` for what differs from hmmlearn. The priors are
    those of hmmlearn: Dirichlet distributions of ``startprob_``, ``transmat_`` and ``weights_``, normal ones of the
    means given the covariances, and inverse gamma ones of variances or inverse Wishart ones of matrices, up to a
    constant. They are the same for all states. Means start from k-means within k-means, as in hmmlearn; covariances
    from that of all rows. hmmlearn takes squares about the means before their update, which is no
    EM step but has the same fixed points; here they are about the new means.

    Arguments:
        n_components: the number of states K.
        n_mix: the number of components M of each mixture.
        min_covar: what is added to the variances of the start, in squared units of X.
        weights_prior: concentration of the Dirichlet prior of the weights of each state, at least 1; a number or (M,).
        means_prior: the mean of the prior of the means; broadcasts to (M, D).
        means_weight: how many observations it is worth; a number or (M,).
        covars_prior, covars_weight: for ``"diag"`` and ``"spherical"`` shape alpha (a number) and rate beta of the
            inverse gamma prior of each variance; for ``"full"`` and ``"tied"`` the matrix (a number, (D, D) or
            (M, D, D)) and the degrees of freedom (a number) of the inverse Wishart prior. Default ``None``: maximum
            likelihood.
        covariance_type: ``"diag"`` (default), ``"spherical"``, ``"full"``, or ``"tied"``: one matrix for all components
            of a state.
        params: the letters of what is fitted: ``s`` startprob, ``t`` transmat, ``m`` means, ``c`` covars, ``w``
            weights. What is left out is held at its value.
        startprob_prior, transmat_prior, algorithm, random_state, n_iter, tol: as for ``GaussianHMM``.
        verbose, init_params, implementation, n_init: likewise.

    Attributes:
        weights_: (K, M).
        means_: (K, M, D).
        covars_: (K, M) spherical, (K, M, D) diag, (K, M, D, D) full, (K, D, D) tied.
        startprob_, transmat_, monitor_, model_, fit_, n_features_in_, feature_names_in_: as of ``GaussianHMM``.

    Source: Rabiner (1989), section IV.A; hmmlearn 0.3.3 for the interface.
    """

    _emitted: ClassVar[dict[str, Emission]] = {
        "m": Emission("means_", "emissions.components.means"),
        "c": Emission("covars_", "emissions.components.covariances"),
        "w": Emission("weights_", "emissions.weights"),
    }
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **HiddenMarkov._parameter_constraints,
        "n_mix": [Interval(Integral, 1, None, closed="left")],
        "covariance_type": [StrOptions({"spherical", "diag", "full", "tied"})],
        "min_covar": [Interval(Real, 0, None, closed="left")],
    }

    _shaping: ClassVar[tuple[str, ...]] = ("n_components", "n_mix", "covariance_type")

    n_mix: int
    covariance_type: str
    min_covar: float
    weights_prior: Any
    means_prior: Any
    means_weight: Any
    covars_prior: Any
    covars_weight: Any
    means_: Any  # (K, M, D)
    covars_: Any  # (K, M) spherical, (K, M, D) diag, (K, M, D, D) full, (K, D, D) tied
    weights_: Any  # (K, M)

    def __init__(
        self,
        n_components: int = 1,
        n_mix: int = 1,
        min_covar: float = 1e-3,
        startprob_prior: Any = 1.0,
        transmat_prior: Any = 1.0,
        weights_prior: Any = 1.0,
        means_prior: Any = 0.0,
        means_weight: Any = 0.0,
        covars_prior: Any = None,
        covars_weight: Any = None,
        algorithm: str = "viterbi",
        covariance_type: str = "diag",
        random_state: Any = None,
        n_iter: int = 1000,
        tol: float = 1e-2,
        verbose: Any = False,
        params: str = "stmcw",
        init_params: str = "stmcw",
        implementation: str = "log",
        n_init: int = 1,
    ) -> None:
        self._take(locals())

    def _family(self, width: int, free: str) -> Component:
        weights = concentration(self, "weights_prior", (self.n_mix,)) if "w" in free else None
        family: Any = MultivariateNormal(self.covariance_type, self._prior(width, free))
        return Component(Mixture(family, self.n_mix, gate=Constant(weights)))

    def _prior(self, d: int, free: str) -> PriorObservations | None:
        """The prior of what is free; ``None`` where it is flat."""
        m, kind = self.n_mix, self.covariance_type
        mean = broadcast("means_prior", self.means_prior, (m, d))
        kappa = broadcast("means_weight", self.means_weight, (m,))
        size, scatter = self._of_covars(d) if "c" in free else (0.0, np.zeros(()))
        if not (("m" in free or "c" in free) and kappa.any()) and not size and not scatter.any():
            return None
        if (kappa < 0).any() or size < 0:
            raise ValueError(
                f"means_weight, and the power of the determinant that covars_prior and covars_weight of {kind!r} stand "
                f"for, must be at least 0; they are {self.means_weight} and {size}"
            )
        prior = PriorObservations(mean, kappa, size, scatter)
        prior.check(kind)
        return prior

    def _of_covars(self, d: int) -> tuple[float, np.ndarray]:
        """nu and Lambda of ``PriorObservations``."""
        m, kind = self.n_mix, self.covariance_type
        if self.covars_prior is None and self.covars_weight is None:
            return 0.0, np.zeros(())
        if self.covars_prior is None or self.covars_weight is None:
            raise ValueError("covars_prior and covars_weight must be given together")
        shape = {"full": (m, d, d), "tied": (d, d), "diag": (m, d), "spherical": (m,)}[kind]
        if kind in ("full", "tied"):
            size = float(broadcast("covars_weight", self.covars_weight, ())) + (d + 2 if kind == "full" else m + d + 1)
            return size, broadcast("covars_prior", self.covars_prior, shape)
        alpha = float(broadcast("covars_prior", self.covars_prior, ()))
        size = 1 + 2 * (alpha + 1) / (d if kind == "spherical" else 1)
        return size, 2 * broadcast("covars_weight", self.covars_weight, shape)

    def _emissions(self, arrays: dict[str, np.ndarray]) -> MixtureParams:
        components = MultivariateNormalParams(arrays["m"], arrays["c"])  # pyright: ignore[reportArgumentType]
        return MixtureParams(arrays["w"], components)  # pyright: ignore[reportArgumentType]

    def _arrays_of(self, emissions: Any) -> dict[str, np.ndarray]:
        return {"w": emissions.weights, "m": emissions.components.means, "c": emissions.components.covariances}

    def _start(self, model: Any, X: np.ndarray, data: Any, random: np.random.RandomState) -> dict[str, np.ndarray]:
        """States by k-means, the means of each by k-means among its rows; equal weights and the covariance of all rows.

        From seeds and the covariance of their own few rows, a component collapses more often.
        """
        k, m, kind = self.n_components, self.n_mix, self.covariance_type
        X = X[~np.isnan(X).all(axis=1)]
        X = np.where(np.isnan(X), np.nanmean(X, axis=0), X)
        states = by_kmeans(X, k, None, random)
        size = states.mean(axis=0)
        means = np.stack([self._means(X[states[:, j] == 1], X, random) for j in range(k)])
        covariance = np.atleast_2d(np.cov(X.T, bias=True)).astype(X.dtype)
        of_all = {
            "full": lambda: np.broadcast_to(covariance, (k, m, *covariance.shape)),
            "tied": lambda: np.broadcast_to(covariance, (k, *covariance.shape)),
            "diag": lambda: np.broadcast_to(covariance.diagonal(), means.shape),
            "spherical": lambda: np.full((k, m), covariance.diagonal().mean()),
        }
        moves = (np.eye(k, dtype=X.dtype) + size) / 2  # as ``HMM.init``
        return {"s": size, "t": moves, "w": np.full((k, m), 1 / m), "m": means, "c": of_all[kind]()}

    def _means(self, rows: np.ndarray, X: np.ndarray, random: np.random.RandomState) -> np.ndarray:
        """The means (M, D) of a state that has these rows; where they are too few, normal draws about their mean."""
        if len(np.unique(rows, axis=0)) < self.n_mix:
            return rows.mean(axis=0) + X.std(axis=0) * random.standard_normal((self.n_mix, X.shape[1]))
        labels = by_kmeans(rows, self.n_mix, None, random)
        return labels.T @ rows / labels.sum(axis=0)[:, None]

    def _spread_start(self, arrays: dict[str, np.ndarray]) -> None:
        covars, matrices = arrays["c"], self.covariance_type in ("full", "tied")
        arrays["c"] = covars + self.min_covar * (np.eye(covars.shape[-1], dtype=covars.dtype) if matrices else 1)

    def _check_emissions(self) -> None:
        k, m = self.n_components, self.n_mix
        self._probabilities("weights_", (k, m), "(n_components, n_mix)")
        self.means_, self.covars_ = self._floats("means_"), self._floats("covars_")
        if self.means_.ndim != 3 or self.means_.shape[:2] != (k, m):
            raise ValueError(f"means_ must have shape (n_components, n_mix, n_features); it has {self.means_.shape}")
        d, kind = self.means_.shape[2], self.covariance_type
        shapes = {"spherical": (k, m), "diag": (k, m, d), "full": (k, m, d, d), "tied": (k, d, d)}
        if kind not in shapes or self.covars_.shape != shapes[kind]:
            raise ValueError(f"{kind!r} covars must have shape {shapes.get(kind)}; they have {self.covars_.shape}")
        matrices = kind in ("full", "tied")
        least = np.linalg.eigvalsh(self.covars_) if matrices else self.covars_
        if not (least > 0).all():
            raise ValueError(f"{kind!r} covars must be {'positive-definite' if matrices else 'positive'}")
