"""Hidden Markov models with the interface of hmmlearn: what all of them share.

X holds all sequences one after the other, (N, D), and ``lengths`` says where each ends. The parameters are attributes
that can be set instead of fitted: ``startprob_``, ``transmat_``, and those of the emissions.
"""

import logging
from numbers import Integral
from typing import Any, ClassVar, NamedTuple, Self

import jax
import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from jaxem.algorithms import EM
from jaxem.core.data import Dataset
from jaxem.gates import Allowed, Constant
from jaxem.models import HMM
from jaxem.models.hmm_params import HMMParams
from jaxem.models.restricted import restrict
from jaxem.sklearn.base import Estimator, doubles
from jaxem.sklearn.hmm_reading import Reading, concentration
from jaxem.sklearn.hmm_results import Results

_log = logging.getLogger(__name__)


class Monitor(NamedTuple):
    """How EM went, under the names of hmmlearn's ``monitor_``."""

    history: list[float]  # the objective before the first step and after each one: log-likelihood plus log-prior
    iter: int  # steps taken
    converged: bool  # whether the stopping rule was met; not where ``n_iter`` ended the fit
    tol: float
    n_iter: int


class Emission(NamedTuple):
    """A parameter of the emissions."""

    attribute: str
    path: str  # its name in the parameters of the model


class HiddenMarkov(Results, Reading, Estimator):
    """The base of the hidden Markov models. A subclass says what its emissions are."""

    _emitted: ClassVar[dict[str, Emission]]  # by the letter that stands for it in ``params`` and ``init_params``

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **{name: Estimator._parameter_constraints[name] for name in ("tol", "n_init", "random_state", "verbose")},
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "algorithm": [StrOptions({"viterbi", "map"})],
        "n_iter": [Interval(Integral, 0, None, closed="left")],
        "implementation": [StrOptions({"log", "scaling"})],
        "params": [str],
        "init_params": [str],
    }
    _not_converged: ClassVar[str] = "The fit did not converge. Increase n_iter or tol, or try another start (n_init)."
    _failure: ClassVar[str] = (
        "Fitting the hidden Markov model failed. Try fewer states, another start (n_init), a simpler emission, or a "
        "stronger prior. "
    )

    # Arguments that all constructors have
    startprob_prior: Any
    transmat_prior: Any
    algorithm: str  # of ``decode``
    n_iter: int
    params: str
    init_params: str

    # The parameters, set or fitted
    startprob_: Any  # (K,)
    transmat_: Any  # (K, K), from row to column

    # What a subclass defines

    def _family(self, width: int, free: str) -> Any:
        """The family of the emissions of ``width`` columns (or levels), with the priors of the letters in ``free``."""
        raise NotImplementedError

    def _emissions(self, arrays: dict[str, np.ndarray]) -> Any:
        """The parameters of the family, from its arrays by letter."""
        raise NotImplementedError

    def _arrays_of(self, emissions: Any) -> dict[str, np.ndarray]:
        """The arrays of the parameters of the family, by letter."""
        raise NotImplementedError

    def _check_emissions(self) -> None:
        """Raise ``ValueError`` where attributes of the emissions are none."""
        raise NotImplementedError

    def _width(self) -> int:
        """The number of columns (or levels) that the attributes are for."""
        name = next(iter(self._emitted.values())).attribute
        return np.shape(getattr(self, name))[-1]

    @property
    def n_features(self) -> int:
        """The number of columns of X."""
        return self._width()

    @n_features.setter
    def n_features(self, value: int) -> None:
        if hasattr(self, "n_features") and value != self.n_features:
            raise ValueError(f"n_features is {self.n_features}, as the parameters are; it cannot be set to {value}")

    def _check_and_set_n_features(self, X: np.ndarray) -> None:
        """Raise ``ValueError`` where X cannot come from the emissions."""
        if self._of_counts and (X < 0).any():
            raise ValueError("Negative values in data: X holds counts or codes, which are never negative")

    _shaping: ClassVar[tuple[str, ...]] = ("n_components",)  # arguments that the model without priors depends on
    _read: ClassVar[dict[str, Any]] = {}  # options by which X is read
    _of_counts: ClassVar[bool] = False  # whether X holds counts or codes, which are never negative

    def _spread_start(self, arrays: dict[str, np.ndarray]) -> None:
        """Change the arrays of a start, by letter, in place."""

    # The parameters

    @property
    def _letters(self) -> dict[str, str]:
        """The attribute that each letter stands for."""
        return {"s": "startprob_", "t": "transmat_"} | {key: own.attribute for key, own in self._emitted.items()}

    def _by_letter(self, params: HMMParams) -> dict[str, np.ndarray]:
        found = {"s": params.initial, "t": params.transition, **self._arrays_of(params.emissions)}
        return {letter: np.asarray(array) for letter, array in found.items()}

    def _assembled(self, arrays: dict[str, np.ndarray]) -> HMMParams:
        return HMMParams(arrays["s"], arrays["t"], self._emissions(arrays))

    def _set(self, arrays: dict[str, np.ndarray]) -> None:
        for letter, name in self._letters.items():
            setattr(self, name, np.array(arrays[letter]))  # which can be changed in place

    def _current(self) -> dict[str, np.ndarray]:
        """The attributes that are set, by letter."""
        return {letter: self._floats(name) for letter, name in self._letters.items() if hasattr(self, name)}

    # The model

    def _model(self, width: int, free: str, kept: dict[str, np.ndarray]) -> HMM:
        """The model with the priors of the letters in ``free``; zeros of probabilities in ``kept`` stay zero."""
        k = self.n_components
        start = concentration(self, "startprob_prior", (k,)) if "s" in free else None
        moves = concentration(self, "transmat_prior", (k, k)) if "t" in free else None
        if start is not None and "s" in kept:
            start = np.where(kept["s"] == 0, 1.0, start)
        zeros = moves is not None and "t" in kept and (kept["t"] == 0).any()
        transition = Allowed(kept["t"] > 0, moves) if zeros else Constant(moves)
        return HMM(self._family(width, free), k, initial=Constant(start), transition=transition)

    def _restricted(self, model: HMM, params: HMMParams) -> Any:
        """The model with what is not to be fitted held at ``params``."""
        wanted = self.params
        paths = {"s": "initial", "t": "transition"} | {key: own.path for key, own in self._emitted.items()}
        held: dict[str, Any] = {path: None for letter, path in paths.items() if letter not in wanted}
        zeros = np.asarray(params.initial) == 0
        if "s" in wanted and zeros.any() and model.initial.prior is not None:
            held["initial"] = (zeros, np.zeros(zeros.shape))
        return restrict(model, fixed=held, params=params) if held else model

    # The fit

    def fit(self, X: Any, lengths: Any = None) -> Self:
        """Estimate the parameters by EM.

        Arguments:
            X: the observations of all sequences, one sequence after the other, (N, D). NaN: not observed.
            lengths: the length of each sequence; their sum is N. Default: one sequence.

        Returns:
            The estimator.

        Raises:
            ValueError: X, ``lengths`` or a parameter is not as said, or the fit failed (the likelihood has no maximum
                there, for example because a state collapsed onto a point).
        """
        with doubles():
            X, data, starts = self._prepare(X, lengths)
            free = self.params
            known = self._by_letter(starts[0])
            model = self._restricted(self._model(self._width_of(X), free, known), starts[0])
            # What is held is that of the first start.
            project = getattr(model, "project", None)
            starts = [starts[0], *(start if project is None else project(start) for start in starts[1:])]
            # Steps at which every cell is missing are no observations.
            n = float((~np.isnan(X)).any(axis=1).sum()) if X.dtype.kind == "f" else float(len(X))
            self._climb(model, data, starts, self._random(), n)
            self._set(self._by_letter(self.fit_.params))
        return self

    def _prepare(self, X: Any, lengths: Any) -> tuple[np.ndarray, Dataset, list[HMMParams]]:
        """X, the sequences, and the starts, the first of which is set as attributes."""
        self._validate_params()
        self._check_letters()
        X = self._checked_matrix(X, True)
        data, _ = self._sequences(X, lengths)
        starts = self._starts(X, data)
        self._set(self._by_letter(starts[0]))
        self._check()
        size = sum(np.size(leaf) for leaf in jax.tree.leaves(starts[0]))
        if X.size < size:
            _log.warning(
                "Fitting a model with %d free scalar parameters with only %d data points will result in a degenerate "
                "solution.",
                size,
                X.size,
            )
        return X, data, starts

    def _init(self, X: Any, lengths: Any = None) -> None:
        """Set the attributes to the start that ``fit`` would use."""
        with doubles():
            self._prepare(X, lengths)

    def _starts(self, X: np.ndarray, data: Dataset) -> list[HMMParams]:
        """As many starts as ``n_init`` says: the attributes, and new values of those to be initialised."""
        current = self._current()
        new = [key for key in self._letters if key in self.init_params or key not in current]
        own = self._by_letter(self.fit_.params) if hasattr(self, "fit_") else {}
        for letter in new:
            if letter in current and not np.array_equal(current[letter], own.get(letter, np.nan)):
                _log.warning(
                    "Even though the %r attribute is set, it will be overwritten during initialization because "
                    "'init_params' contains %r",
                    self._letters[letter],
                    letter,
                )
        kept = {letter: array for letter, array in current.items() if letter not in new}
        if not new:
            return [self._assembled(kept)]
        model = self._model(self._width_of(X), "".join(self._letters), kept)
        random, starts = self._random(), []
        for _ in range(self.n_init):
            arrays = self._start(model, X, data, random)
            self._spread_start(arrays)
            starts.append(self._assembled(arrays | kept))
        return starts

    def _start(self, model: HMM, X: np.ndarray, data: Dataset, random: np.random.RandomState) -> dict[str, np.ndarray]:
        """The arrays of one start, by letter."""
        return self._by_letter(model.init(self._key(random), data))

    def _width_of(self, X: np.ndarray) -> int:
        return X.shape[1]

    def _check_letters(self) -> None:
        known = "".join(self._letters)
        for name in ("params", "init_params"):
            wrong = sorted(set(getattr(self, name)) - set(known))
            if wrong:
                raise ValueError(f"{name} may hold the letters {known!r}; got {''.join(wrong)!r}")

    def _algorithm(self) -> Any:
        """EM at any size, as ``n_iter`` counts its iterations; the argument ``algorithm`` is that of ``decode``."""
        return EM()

    def _limits(self, n: float) -> dict[str, Any]:
        # The rule of jaxem.fit counts per observed value, of at most half a million.
        return {"tol": self.tol / min(max(n, 1.0), 5e5), "max_steps": self.n_iter}

    @property
    def monitor_(self) -> Monitor:
        """How EM went; a ``Monitor``."""
        check_is_fitted(self, "fit_")
        steps = int(self.fit_.steps)
        trace = np.asarray(self.fit_.trace)[: steps + 1].astype(float).tolist()
        return Monitor(trace, steps, self.converged_, self.tol, self.n_iter)

    @monitor_.setter
    def monitor_(self, value: Any) -> None:
        raise AttributeError(
            "monitor_ reports the fit and cannot be set; your own stopping rule: jaxem.fit(..., stop=...)"
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self._read.get("ensure_all_finite") is not True
        tags.input_tags.positive_only = self._of_counts
        return tags
