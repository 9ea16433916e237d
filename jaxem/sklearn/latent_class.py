"""``LatentClass``: mixtures of tables with columns of categories and of numbers."""

import dataclasses
from typing import Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import validate_data

from jaxem.core import frame_output, frames
from jaxem.core.data import Columns, Dataset
from jaxem.core.dataset import dataset
from jaxem.families import Categorical, MultivariateNormal, Product
from jaxem.sklearn.base import Real
from jaxem.sklearn.classes import Classes
from jaxem.sklearn.columns import codes, columns, levels_of, library, numbers

_NUMBERS = (np.int64, np.int32, np.float64, np.float32)
_CATEGORICAL, _CONTINUOUS = "categorical", "continuous"


class LatentClass(Classes):
    r"""Latent classes of a table: columns are independent given the class.

    .. math:: p(x) = \sum_k w_k \prod_{d\ categorical} p_{kd}[x_d] \prod_{d\ continuous} N(x_d; m_{kd}, v_{kd})

    Columns of floats are continuous, all others (categories, texts, booleans, whole numbers) are categorical. The
    levels are those of the dtype, or those found in ``fit``; another level in later data is refused by name. Cells may
    be missing: NaN, ``None``, null.

    Arguments:
        n_components: the number of classes; default 2.
        categorical_features: ``"from_dtype"`` (default), as said above; or the categorical columns, by name, by
            place, or as a mask. A column of whole numbers with gaps is one of floats in pandas, and is named here.
        reg_covar: added to the variances by each M-step, in squared units of X; default 1e-6.
        init_params: ``"k-means++"`` (default), ``"random_from_data"``, ``"random"`` or ``"kmeans"``.
        tol, max_iter, n_init, random_state, warm_start, algorithm, verbose: as for ``GaussianMixture``.

    Attributes: ``weights_`` (K,); ``categories_``, the levels of each categorical column by name; ``probabilities_``,
    arrays (K, levels) by name; ``means_`` and ``variances_``, arrays (K,) of each continuous column by name; and those
    of every fit.

    Source: Lazarsfeld & Henry (1968); Hunt & Jorgensen (1999) for mixed columns.
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **Classes._parameter_constraints,
        "categorical_features": ["array-like", str],
        "reg_covar": [Interval(Real, 0, None, closed="left")],
    }

    categories_: dict[str, list[Any]]
    probabilities_: dict[str, np.ndarray]
    means_: dict[str, np.ndarray]
    variances_: dict[str, np.ndarray]
    categorical_features: Any
    reg_covar: float

    def __init__(
        self,
        n_components: int = 2,
        *,
        categorical_features: Any = "from_dtype",
        reg_covar: float = 1e-6,
        tol: float = 1e-10,
        max_iter: int = 1000,
        n_init: int = 1,
        init_params: str = "k-means++",
        random_state: Any = None,
        warm_start: bool = False,
        algorithm: Any = None,
        verbose: int = 0,
    ) -> None:
        self._take(locals())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.categorical = True
        return tags

    # X as one array of codes and numbers, NaN where missing

    def _read(self, X: Any, reset: bool) -> np.ndarray:
        if frames.is_table(X):
            validate_data(self, X, reset=reset, skip_check_array=True)
        else:
            least = 2 if reset else 1
            if not self._is_ready(X, reset, _NUMBERS, least):
                X = validate_data(self, X, reset=reset, dtype=None, ensure_all_finite=False, ensure_min_samples=least)
        found = columns(X)
        names = getattr(self, "feature_names_in_", [f"x{j}" for j in range(len(found))])
        if reset:
            self._columns = list(map(str, names))
            self._library = library(X)
            which = self._categorical([column.numeric for column in found])
            self._levels = [levels_of(column) if is_in else None for column, is_in in zip(found, which, strict=True)]
        parts = [
            numbers(column, f"column {name!r}") if levels is None else codes(column, levels, f"column {name!r}")
            for column, name, levels in zip(found, self._columns, self._levels, strict=True)
        ]
        dtype = np.float32 if getattr(X, "dtype", None) == np.float32 else np.float64
        return np.stack(parts, axis=1).astype(dtype)

    def _categorical(self, numeric: list[bool]) -> list[bool]:
        """Whether each column is categorical."""
        given = self.categorical_features
        if isinstance(given, str) and given == "from_dtype":
            return [not is_number for is_number in numeric]
        wanted = list(np.atleast_1d(np.asarray(given, object)))
        if len(wanted) == len(numeric) and all(isinstance(entry, bool | np.bool_) for entry in wanted):
            return list(map(bool, wanted))
        places = dict(zip(self._columns, range(len(numeric)), strict=True)) | {j: j for j in range(len(numeric))}
        for entry in wanted:
            if entry not in places:
                raise ValueError(f"categorical_features: there is no column {entry!r}; the columns are {self._columns}")
        chosen = {places[entry] for entry in wanted}
        return [j in chosen for j in range(len(numeric))]

    def _places(self, kind: str) -> list[int]:
        """The columns that are categorical, or continuous."""
        return [j for j, levels in enumerate(self._levels) if (levels is None) == (kind == _CONTINUOUS)]

    def _parts(self, of: dict[str, Any]) -> Any:
        """A dict with the parts that exist; the part itself where there is only one."""
        found = {kind: part() for kind, part in of.items() if self._places(kind)}
        return found if len(found) > 1 else next(iter(found.values()))

    def _family(self, X: np.ndarray) -> Any:
        found = self._parts(
            {
                _CATEGORICAL: lambda: Categorical(
                    tuple(len(self._levels[j] or ()) for j in self._places(_CATEGORICAL))
                ),
                _CONTINUOUS: lambda: MultivariateNormal("diag", floor=float(self.reg_covar) or None),
            }
        )
        return Product(found) if isinstance(found, dict) else found

    def _values(self, X: np.ndarray) -> Any:
        def coded() -> np.ndarray:
            own = X[:, self._places(_CATEGORICAL)]
            missing = np.isnan(own)
            if not missing.any():
                return own.astype(np.int32)
            return np.ma.masked_array(np.where(missing, 0, own).astype(np.int32), missing)

        return self._parts({_CATEGORICAL: coded, _CONTINUOUS: lambda: X[:, self._places(_CONTINUOUS)]})

    def as_data(self, X: Any, sample_weight: Any = None) -> Dataset:
        """X as the functions of jaxem take it, for example ``jaxem.summary(self.model_, self.fit_, self.as_data(X))``.

        Arguments:
            X: a table, as for ``fit``.
            sample_weight: (N,), how many times each row counts; default: once each.

        Returns:
            A ``jaxem.Dataset`` with the names of columns and levels.
        """
        data = super().as_data(X, sample_weight)
        data = data if isinstance(data, Dataset) else dataset(data)
        both = bool(self._places(_CATEGORICAL) and self._places(_CONTINUOUS))
        names = []
        for kind in (_CATEGORICAL, _CONTINUOUS):
            if places := self._places(kind):
                levels = [self._levels[j] for j in places]
                texts = tuple(None if own is None else tuple(map(str, own)) for own in levels)
                columns = Columns(tuple(self._columns[j] for j in places), texts)
                names.append((f"values.{kind}" if both else "values", columns))
        return dataclasses.replace(data, names=tuple(names))

    def _publish(self) -> None:
        super()._publish()
        own = self.fit_.params.components
        of = lambda kind: own[kind] if isinstance(own, dict) else own
        named = lambda kind, arrays: dict(zip([self._columns[j] for j in self._places(kind)], arrays, strict=True))
        self.categories_ = named(_CATEGORICAL, [self._levels[j] for j in self._places(_CATEGORICAL)])
        categorical, continuous = bool(self._places(_CATEGORICAL)), bool(self._places(_CONTINUOUS))
        self.probabilities_ = named(_CATEGORICAL, of(_CATEGORICAL).probabilities) if categorical else {}
        self.means_ = named(_CONTINUOUS, of(_CONTINUOUS).means.T) if continuous else {}
        self.variances_ = named(_CONTINUOUS, of(_CONTINUOUS).covariances.T) if continuous else {}

    def _drawn(self, X: Any, n: int) -> Any:
        """Draws as a table: a data frame where ``fit`` was given one."""
        whole = X if isinstance(X, dict) else {kind: X for kind in (_CATEGORICAL, _CONTINUOUS) if self._places(kind)}
        found: dict[str, Any] = {}
        for kind, part in whole.items():
            for column, j in zip(np.asarray(part)[:n].T, self._places(kind), strict=True):
                levels = self._levels[j]
                found[self._columns[j]] = column if levels is None else np.asarray(levels)[column.astype(int)]
        ordered = {name: found[name] for name in self._columns}
        if self._library is not None:
            return frame_output.make(ordered, self._library)
        kinds = {column.dtype.kind for column in ordered.values()}
        return np.stack([column.astype(object) if len(kinds) > 1 else column for column in ordered.values()], axis=1)
