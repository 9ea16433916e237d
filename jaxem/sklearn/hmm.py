"""Hidden Markov models with the interface of hmmlearn: what all of them share.

X holds all sequences one after the other, (N, D), and ``lengths`` says where each ends. The parameters are attributes
that can be set instead of fitted: ``startprob_``, ``transmat_``, and those of the emissions.
"""

import logging
from numbers import Integral
from typing import Any, ClassVar, NamedTuple, Self

import jax
import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from jaxem import inference
from jaxem.core.data import Dataset
from jaxem.core.dataset import dataset
from jaxem.core.sizes import padded_size
from jaxem.gates import Allowed, Constant
from jaxem.gates.stationary import distribution
from jaxem.inference.sample_size import sample_size
from jaxem.models import HMM
from jaxem.models.hmm_params import HMMParams
from jaxem.models.restricted import restrict
from jaxem.sklearn.base import Estimator, doubles

_log = logging.getLogger(__name__)
_LONGEST = (
    2**14
)  # steps; the lengths of shorter sequences are filled up to few sizes, so that a new one seldom compiles


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


class HiddenMarkov(Estimator):
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
    _failed: ClassVar[str] = (
        "Fitting the hidden Markov model failed. Use fewer states, another start (n_init), a simpler emission, or a "
        "stronger prior."
    )

    # Arguments that all constructors have
    n_components: int
    startprob_prior: Any
    transmat_prior: Any
    algorithm: str
    random_state: Any
    n_iter: int
    tol: float
    params: str
    init_params: str
    n_init: int

    # The parameters, set or fitted
    startprob_: Any  # (K,)
    transmat_: Any  # (K, K), from row to column

    def _take(self, arguments: dict[str, Any]) -> None:
        """Keep the arguments of the constructor as they are."""
        for name in self._get_param_names():
            setattr(self, name, arguments[name])

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
            raise ValueError(f"n_features is that of the parameters, {self.n_features}; it cannot be {value}")

    def _check_and_set_n_features(self, X: np.ndarray) -> None:
        """Raise ``ValueError`` where X cannot come from the emissions."""

    _read: ClassVar[dict[str, Any]] = {}  # options by which X is read

    def _spread_start(self, arrays: dict[str, np.ndarray]) -> None:
        """Change the arrays of a start, by letter, in place."""

    # Reading

    def as_data(self, X: Any, lengths: Any = None) -> Dataset:  # pyright: ignore[reportIncompatibleMethodOverride]
        """X as the functions of jaxem take it, for example ``jaxem.summary(self.model_, self.fit_, self.as_data(X))``.

        Arguments:
            X: the observations of all sequences, one sequence after the other, (N, D).
            lengths: the length of each sequence; their sum is N. Default: one sequence.

        Returns:
            A ``jaxem.Dataset`` of sequences.
        """
        return self._sequences(self._checked_matrix(X, False), lengths)[0]

    def _checked_matrix(self, X: Any, reset: bool) -> np.ndarray:
        X = self._matrix(X, reset, **({"ensure_all_finite": "allow-nan", "ensure_min_samples": 1} | self._read))
        if not reset:
            self._check()
        self._check_and_set_n_features(X)
        return X

    def _sequences(self, X: np.ndarray, lengths: Any) -> tuple[Dataset, np.ndarray]:
        """The sequences as one record (N, T, D), and which of its steps lie within a sequence, (N, T)."""
        lengths = _lengths(lengths, len(X))
        longest = int(lengths.max())
        inside = np.arange(padded_size(longest, 1) if longest <= _LONGEST else longest)[None, :] < lengths[:, None]
        values = np.zeros((*inside.shape, *X.shape[1:]), X.dtype)
        values[inside] = X
        missing = X.dtype.kind == "f" and bool(np.isnan(X).any())
        ends = None if inside.all() else lengths
        return dataset(values, lengths=ends, missing="nan" if missing else "refuse"), inside

    def _check(self) -> None:
        """Raise ``ValueError`` where the attributes are no parameters of this model."""
        k = self.n_components
        check_is_fitted(self, "startprob_")
        self._probabilities("startprob_", (k,), "(n_components,)")
        self._probabilities("transmat_", (k, k), "(n_components, n_components)")
        self._check_emissions()

    def _probabilities(self, name: str, shape: tuple[int, ...], said: str) -> None:
        value = self._floats(name)
        if value.shape != shape:
            raise ValueError(f"{name} must have shape {said} = {shape}; it has {value.shape}")
        if not ((value >= 0).all() and np.allclose(value.sum(axis=-1), 1)):
            raise ValueError(f"{name} must be probabilities that sum to 1; the sums are {value.sum(axis=-1)}")
        setattr(self, name, value)

    def _floats(self, name: str) -> np.ndarray:
        value = np.asarray(getattr(self, name, None))
        if value.dtype.kind not in "iuf":
            raise ValueError(f"{name} must be set to numbers, or fitted")
        return value if value.dtype.kind == "f" else value.astype(float)

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
            setattr(self, name, arrays[letter])

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
            random = check_random_state(self.random_state)
            # What is held is that of the first start.
            project = getattr(model, "project", None)
            starts = [starts[0], *(start if project is None else project(start) for start in starts[1:])]
            self._climb(model, data, starts, self._key(random))
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
        random = check_random_state(self.random_state)
        starts = []
        for _ in range(self.n_init):
            arrays = self._by_letter(model.init(self._key(random), data))
            self._spread_start(arrays)
            starts.append(self._assembled(arrays | kept))
        return starts

    def _width_of(self, X: np.ndarray) -> int:
        return X.shape[1]

    def _check_letters(self) -> None:
        known = "".join(self._letters)
        for name in ("params", "init_params"):
            wrong = sorted(set(getattr(self, name)) - set(known))
            if wrong:
                raise ValueError(f"{name} may hold the letters {known!r}; got {''.join(wrong)!r}")

    def _limits(self, model: Any, data: Any) -> dict[str, Any]:
        # The rule of jaxem.fit counts per observed value, of at most half a million.
        size = min(max(float(sample_size(model, data)), 1.0), 5e5)
        return {"tol": self.tol / size, "max_steps": self.n_iter}

    @property
    def monitor_(self) -> Monitor:
        """How EM went; a ``Monitor``."""
        check_is_fitted(self, "fit_")
        steps = int(self.fit_.steps)
        trace = np.asarray(self.fit_.trace)[: steps + 1].astype(float).tolist()
        return Monitor(trace, steps, self.converged_, self.tol, self.n_iter)

    @monitor_.setter
    def monitor_(self, value: Any) -> None:
        raise AttributeError("monitor_ reports the fit and cannot be set; rules of one's own: jaxem.fit(..., stop=...)")

    # Results

    def _known(self, X: Any, lengths: Any) -> tuple[HMM, HMMParams, Dataset, np.ndarray]:
        """The model without priors, its parameters from the attributes, and the sequences."""
        X = self._checked_matrix(X, False)
        return self._plain(), self._assembled(self._current()), *self._sequences(X, lengths)

    def _plain(self) -> HMM:
        return self._model(self._width(), "", {})

    def score(self, X: Any, lengths: Any = None) -> float:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The log-likelihood, summed over all sequences.

        Arguments:
            X: the observations of all sequences, one sequence after the other, (N, D).
            lengths: the length of each sequence; default: one sequence.

        Returns:
            The log-likelihood, without log-prior.
        """
        with doubles():
            model, params, data, _ = self._known(X, lengths)
            return float(np.asarray(model.log_prob(params, data)).sum())

    def score_samples(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, X: Any, lengths: Any = None
    ) -> tuple[float, np.ndarray]:
        """The log-likelihood, and the posterior probability of each state at each step.

        Arguments:
            X: the observations of all sequences, one sequence after the other, (N, D).
            lengths: the length of each sequence; default: one sequence.

        Returns:
            The log-likelihood, and probabilities (N, K).
        """
        return self.score(X, lengths), self.predict_proba(X, lengths)

    def predict_proba(self, X: Any, lengths: Any = None) -> np.ndarray:
        """The posterior probability of each state at each step, given the whole sequence.

        Arguments:
            X: the observations of all sequences, one sequence after the other, (N, D).
            lengths: the length of each sequence; default: one sequence.

        Returns:
            Probabilities (N, K); NaN for a sequence that is impossible under the parameters.
        """
        with doubles():
            model, params, data, inside = self._known(X, lengths)
            return np.asarray(model.predict_proba(params, data))[inside]

    def decode(self, X: Any, lengths: Any = None, algorithm: str | None = None) -> tuple[float, np.ndarray]:
        """The most probable states.

        Arguments:
            X: the observations of all sequences, one sequence after the other, (N, D).
            lengths: the length of each sequence; default: one sequence.
            algorithm: ``"viterbi"``: the most probable path; ``"map"``: the most probable state at each step by itself.
                Default: that of the constructor.

        Returns:
            Of ``"viterbi"`` the log-probability of the path together with X; of ``"map"`` the sum over steps of the
            probability of the state. And the states (N,), -1 in a sequence that is impossible.
        """
        algorithm = algorithm or self.algorithm
        if algorithm == "map":
            found = self.predict_proba(X, lengths)
            states = np.where(np.isnan(found).any(axis=1), -1, found.argmax(axis=1))
            return float(found.max(axis=1).sum()), states
        if algorithm != "viterbi":
            raise ValueError(f"algorithm must be 'viterbi' or 'map'; got {algorithm!r}")
        with doubles():
            model, params, data, inside = self._known(X, lengths)
            path, value = model.decode(params, data)
            return float(np.asarray(value).sum()), np.asarray(path)[inside].astype(int)

    def predict(self, X: Any, lengths: Any = None) -> np.ndarray:
        """The states that ``decode`` returns.

        Arguments:
            X: the observations of all sequences, one sequence after the other, (N, D).
            lengths: the length of each sequence; default: one sequence.

        Returns:
            States (N,), from 0 to K - 1.
        """
        return self.decode(X, lengths)[1]

    def sample(
        self, n_samples: int = 1, random_state: Any = None, currstate: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """One sequence drawn from the model.

        Arguments:
            n_samples: the number of steps.
            random_state: a seed or a generator; default: that of the constructor.
            currstate: the state of the first step; default: drawn from ``startprob_``.

        Returns:
            Observations (n_samples, D), and states (n_samples,).
        """
        self._check()
        random = check_random_state(self.random_state if random_state is None else random_state)
        with doubles():
            params = self._assembled(self._current())
            if currstate is not None:
                params = params._replace(initial=np.eye(len(params.initial))[currstate])
            drawn = self._drawn().sample_joint(self._key(random), params, 1, padded_size(n_samples))
            states, x = (np.asarray(part)[0, :n_samples] for part in drawn)  # another length seldom compiles
            return self._as_drawn(x), states.astype(int)

    def _drawn(self) -> HMM:
        """The model that samples are drawn from."""
        return self._plain()

    def _as_drawn(self, x: np.ndarray) -> np.ndarray:
        return x

    def bic(self, X: Any, lengths: Any = None) -> float:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The Bayesian information criterion, -2 log L + p log n; lower is better.

        Arguments:
            X: the observations of all sequences, one sequence after the other, (N, D).
            lengths: the length of each sequence; default: one sequence.

        Returns:
            The criterion. What ``params`` leaves out and probabilities of zero are not counted in p; n is the number of
            steps with an observation.
        """
        return self._by_criterion(inference.bic, X, lengths)

    def aic(self, X: Any, lengths: Any = None) -> float:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Akaike's information criterion, -2 log L + 2 p; lower is better.

        Arguments:
            X: the observations of all sequences, one sequence after the other, (N, D).
            lengths: the length of each sequence; default: one sequence.

        Returns:
            The criterion, with p as for ``bic``.
        """
        return self._by_criterion(inference.aic, X, lengths)

    def _by_criterion(self, criterion: Any, X: Any, lengths: Any) -> float:
        with doubles():
            model, params, data, _ = self._known(X, lengths)
            return float(criterion(self._restricted(model, params), params, data))

    def get_stationary_distribution(self) -> np.ndarray:
        """The distribution of the states that the transition matrix leaves as it is, (K,)."""
        check_is_fitted(self, "transmat_")
        with doubles():
            return np.asarray(distribution(jax.numpy.asarray(self._floats("transmat_"))))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


def _lengths(lengths: Any, n: int) -> np.ndarray:
    """The lengths of the sequences in ``n`` rows."""
    if lengths is None:
        return np.array([n])
    found = np.atleast_1d(np.asarray(lengths))
    if found.ndim != 1 or found.dtype.kind not in "iu" or (found < 1).any():
        raise ValueError(f"lengths must be whole numbers of at least 1, one for each sequence; got {lengths}")
    if found.sum() != n:
        raise ValueError(f"lengths array {lengths} doesn't sum to {n} samples")
    return found


def broadcast(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The numbers of an argument, in this shape."""
    try:
        found = np.broadcast_to(np.asarray(value, float), shape)
    except (ValueError, TypeError):
        found = np.array(np.nan)
    if not np.isfinite(found).all():
        raise ValueError(f"{name} must be finite numbers that broadcast to the shape {shape}; it is {value}")
    return found


def concentration(estimator: Any, name: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """The Dirichlet prior of an argument, in this shape; ``None`` where it is flat."""
    value = getattr(estimator, name)
    found = broadcast(name, value, shape)
    if (found < 1).any():
        raise ValueError(
            f"{name} must be at least 1: below 1 the posterior density is unbounded where a probability is zero, so "
            f"that it has no maximum to find; it is {value}"
        )
    return None if (found == 1).all() else found
