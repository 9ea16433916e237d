"""What all estimators share: reading X, random numbers, the fit and how it ended, scores."""

import functools
import warnings
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import jax
import numpy as np
from jax import Array
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from jaxem import inference
from jaxem.core.data import Dataset, size
from jaxem.core.dataset import dataset
from jaxem.fitting import Fit, FitWarning, Status, fit, fit_restarts
from jaxem.fitting.result import CAUSES, USABLE
from jaxem.inference.sample_size import sample_size
from jaxem.inference.selection.floors import without_floors

# scikit-learn's words, by which its users search; what is known about the cause follows.
_NOT_CONVERGED = (
    "Best performing initialization did not converge. Try different init parameters, or increase max_iter, tol, or "
    "check for degenerate data."
)


def doubles() -> Any:
    """A context in which JAX keeps float64 arrays as they are, so that results have the dtype of X.

    It holds for this thread while an estimator computes, and changes no setting of the user's.
    """
    return jax.enable_x64(True)


class Estimator(BaseEstimator):
    """The base of all estimators.

    A subclass defines ``as_data(X, ...)``, what jaxem's functions take for X, and ``fit``, which ends with
    ``self._climb(model, data, starts, random)``. The arrays of ``model_`` and ``fit_`` are NumPy's, so that they keep
    their dtype when they are pickled, whatever JAX is set to.
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "tol": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "algorithm": [HasMethods(["init", "step", "requires"]), None],
    }

    _failure: ClassVar[str] = ""  # what the message of a failed fit begins with
    _not_converged: ClassVar[str] = _NOT_CONVERGED

    # Arguments that most constructors have
    n_components: int
    tol: float
    max_iter: int
    n_init: int
    random_state: Any
    warm_start: bool
    algorithm: Any
    verbose: int

    # After a fit, besides what a subclass adds
    model_: Any  # the jaxem model
    fit_: Fit  # of ``model_``
    n_iter_: int
    converged_: bool
    lower_bound_: float  # the objective per observation: log-likelihood, with the log-prior and the floor, if any
    lower_bounds_: list[float]  # after each iteration
    n_features_in_: int

    @classmethod
    def _get_param_names(cls) -> list[str]:
        return _names_of_arguments(cls)

    def _take(self, arguments: dict[str, Any]) -> None:
        """Keep the arguments of the constructor as they are."""
        for name in self._get_param_names():
            setattr(self, name, arguments[name])

    # Reading

    def _matrix(self, X: Any, reset: bool, **options: Any) -> Any:
        """X as an array (N, D) of float64 or float32; ``reset``: remember its width and names, else compare them."""
        options = {"dtype": (np.float64, np.float32), "ensure_min_samples": 2 if reset else 1} | options
        if self._is_ready(X, reset, options["dtype"], options["ensure_min_samples"]):
            return X
        return validate_data(self, X, reset=reset, **options)

    def _is_ready(self, X: Any, reset: bool, dtypes: Any, least: int) -> bool:
        """Whether X plainly is what ``validate_data`` would return, which takes ten times as long to say so."""
        if type(X) is not np.ndarray or X.ndim != 2 or len(X) < least or not X.size:
            return False
        if not (X.dtype.kind in "iuf" if dtypes == "numeric" else X.dtype in dtypes):
            return False
        if hasattr(self, "feature_names_in_"):
            return False
        if not reset and X.shape[1] != getattr(self, "n_features_in_", None):
            return False
        with np.errstate(over="ignore", invalid="ignore"):
            finite = bool(np.isfinite(X.sum()))
        if finite and reset:
            self.n_features_in_ = X.shape[1]
        return finite

    def _weighted(self, values: Any, sample_weight: Any, like: np.ndarray, given: Any = None) -> Dataset | Any:
        """``values`` with weights as jaxem takes them; ``like``: an array with their rows and dtype."""
        missing = any(map(_has_gaps, jax.tree.leaves(values)))
        if sample_weight is None and given is None and not missing:
            return values
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, like, dtype=like.dtype, ensure_non_negative=True)
        return dataset(values, given=given, weights=sample_weight, missing="nan" if missing else "refuse")

    # Random numbers

    def _random(self) -> np.random.RandomState:
        """``random_state`` as scikit-learn reads it: a generator that was given is advanced."""
        return check_random_state(self.random_state)

    def _key(self, random: np.random.RandomState | None = None) -> Array:
        """A key drawn from ``random``, by default from ``random_state``."""
        return jax.random.key(int((random or self._random()).randint(2**31 - 1)))

    # The fit

    def _climb(self, model: Any, data: Any, starts: Any, random: np.random.RandomState, n: float | None = None) -> Self:
        """Fit ``model`` to ``data`` and keep the result; call it within ``doubles()``.

        Arguments:
            model: the jaxem model.
            data: as for ``jaxem.fit``.
            starts: a list with one start for each of ``n_init`` fits: parameters, or what ``model.init`` takes as
                ``start``. Or a tuple of one kind of start, of which ``n_init`` are made. After an earlier fit with
                ``warm_start`` the fit starts from its parameters instead.
            random: where random numbers come from.
            n: the number of observations, by weight; default: counted here.
        """
        if n is None:
            n = float(len(data) if isinstance(data, np.ndarray) else sample_size(model, data))
        limits, warm, algorithm = self._limits(n), self._warm(), self._algorithm()
        lanes = getattr(self, "n_init", 1)
        if warm:
            starts = [self.fit_.params]
        elif isinstance(starts, tuple) and lanes == 1:
            starts = list(starts)
        alone = isinstance(starts, list) and len(starts) == 1
        drawing = not alone or not _is_params(starts[0]) or (algorithm is not None and algorithm.random())
        key = self._key(random) if drawing else None
        how = {**limits, "key": key, "algorithm": algorithm}
        try:
            if alone:
                first = starts[0] if _is_params(starts[0]) else model.init(key, data, starts[0])
                found = fit(model, first, data, **how, progress=self._reporter())
            else:
                many = fit_restarts(model, data, starts=starts, restarts=lanes, **how, progress=self._counter())
                found = many.best
        except ValueError as error:
            raise ValueError(f"{self._failure}{error}") from error
        params, found = found.params, jax.tree.map(np.asarray, found)
        self._judge(found, data, limits, warm, n)
        self.model_, self.fit_ = jax.tree.map(np.asarray, model), found
        self._plain_model, self._of_device = without_floors(self.model_), (found, params)
        self.n_iter_ = steps = int(found.steps)
        self.lower_bound_ = float(found.objective) / n
        self.lower_bounds_ = (found.trace[1 : steps + 1].astype(float) / n).tolist()
        return self

    def _algorithm(self) -> Any:
        """What climbs; ``None``: what ``jaxem.fit`` chooses."""
        return getattr(self, "algorithm", None)

    def _limits(self, n: float) -> dict[str, Any]:
        """The tolerance of a fit to ``n`` observations, and its greatest number of steps, as ``jaxem.fit`` takes
        them."""
        return {"tol": self.tol, "max_steps": self.max_iter}

    def _warm(self) -> bool:
        """Whether the fit goes on from the last one."""
        return bool(getattr(self, "warm_start", False)) and hasattr(self, "fit_")

    def _judge(self, found: Any, data: Any, limits: dict[str, Any], warm: bool, n: float) -> None:
        """Set ``converged_``. A failed fit is a ``ValueError``; one that did not converge, and what else needs
        attention, are warnings."""
        status, steps = Status(int(found.status)), int(found.steps)
        ended = f"{status.name} after {steps} iterations: {CAUSES[status]}."
        if status not in USABLE:
            raise ValueError(f"{self._failure}With n_samples = {n:g}: {ended}")
        self.converged_ = status is Status.CONVERGED
        if warm and status is Status.MAX_STEPS and steps:
            # A few iterations may be too few to estimate what is left to the maximum; then the last rise counts.
            rise = found.trace[steps] - found.trace[steps - 1]
            self.converged_ = bool(rise <= limits["tol"] * size(data, found.trace.dtype))
        if not self.converged_ and limits["max_steps"] > 0:
            warnings.warn(f"{self._not_converged} {ended}", ConvergenceWarning, stacklevel=4)
        for text in found.warnings:
            warnings.warn(text, FitWarning, stacklevel=4)

    def _reporter(self) -> Any:
        """What ``verbose`` prints of one fit: a line about five times a second."""
        if not getattr(self, "verbose", 0):
            return None
        name = type(self).__name__
        return lambda report: print(f"{name}: iteration {int(report.steps)}, objective {float(report.objective):.10g}")

    def _counter(self) -> Any:
        """What ``verbose`` prints of many fits."""
        if not getattr(self, "verbose", 0):
            return None
        return lambda ended, starts: print(f"{type(self).__name__}: {ended} of {starts} starts have ended")

    # Results

    @property
    def _params(self) -> Any:
        """The parameters of ``fit_``, where they still are, as JAX's arrays, which need no conversion in each call."""
        of, params = getattr(self, "_of_device", (None, None))
        return params if of is self.fit_ else self.fit_.params

    def __getstate__(self) -> Any:
        """What is pickled: NumPy's arrays only, which keep their dtype."""
        state: Any = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_of_device"}

    @property
    def _density(self) -> Any:
        """The model whose densities integrate to one: ``model_`` without the floor of ``reg_covar``."""
        check_is_fitted(self)
        return self._plain_model

    def _criterion(self, criterion: Any, data: Any) -> float:
        """A criterion of ``jaxem.inference`` on data that ``as_data`` made."""
        check_is_fitted(self)
        with doubles():
            return float(criterion(self.model_, self.fit_, data))

    def _n_parameters(self) -> int:
        check_is_fitted(self)
        return int(inference.number_of_parameters(self.model_, self.fit_))


@functools.cache
def _names_of_arguments(estimator: type[Estimator]) -> list[str]:
    """The names of the arguments, which scikit-learn reads from the signature in each call."""
    return super(Estimator, estimator)._get_param_names()


def _is_params(start: Any) -> bool:
    """Whether a start is parameters, and not a kind of start, classes, or their probabilities."""
    return not isinstance(start, str | np.ndarray | jax.Array | list)


def _has_gaps(values: Any) -> bool:
    """Whether a cell is NaN or masked."""
    return np.ma.is_masked(values) or (values.dtype.kind == "f" and bool(np.isnan(values).any()))
