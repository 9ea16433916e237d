"""The profile of the classes of a mixture: their sizes, and the mean of every column in each of them."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from jaxem.core import frame_output, tables, trees
from jaxem.core.compilation import program
from jaxem.core.conversion import convert_named
from jaxem.core.data import Columns, Data, count, observed_of, split_weights
from jaxem.core.model import Params, has
from jaxem.core.parameters import Param
from jaxem.core.spaces import answers
from jaxem.fitting.result import Fit
from jaxem.inference.class_names import class_names
from jaxem.inference.coordinates import labels_of
from jaxem.inference.regularity import InformationError
from jaxem.inference.uncertainty.information import Route
from jaxem.inference.uncertainty.standard_errors import Spread, errors, spread_of


@dataclasses.dataclass(frozen=True, eq=False)
class Profile:
    """One row for each column of the data, or for each of its levels; prints as a table."""

    sizes: np.ndarray  # (K,), the share of each class
    size_errors: np.ndarray  # (K,)
    columns: tuple[str, ...]  # (M,), the column of each row
    levels: tuple[str | None, ...]  # (M,), its level, whose probability the row holds; None: the row holds means
    means: np.ndarray  # (M, K)
    errors: np.ndarray  # (M, K), standard errors
    overall: np.ndarray  # (M,), the mean over all classes, by their sizes
    overall_errors: np.ndarray  # (M,)
    missing: np.ndarray  # (M,), the share of the column's cells that are missing
    bounded: np.ndarray  # (M,), whether the row holds probabilities
    observations: float  # the sum of weights
    note: str | None = None  # why there are no standard errors
    classes: tuple[str, ...] = ()  # (K,), the names of the classes
    library: str | None = None  # of the data frame that the data came as
    noun: str = "class"  # what a class is called

    to_frame = frame_output.to_frame

    def __str__(self) -> str:
        k, gaps = len(self.sizes), bool((self.missing > 0).any())
        leveled = any(level is not None for level in self.levels)
        keep = [True, leveled, gaps, *[True] * (k + 1)]
        pick = lambda cells: [cell for cell, kept in zip(cells, keep, strict=True) if kept]
        rows = [pick(["column", "level", "missing", *tables.names(self.classes), "overall"])]
        rows.append(pick(["size", "", "", *map(_with_error, self.sizes, self.size_errors), ""]))
        different, shown = list(dict.fromkeys(self.columns)), None
        names = dict(zip(different, tables.names(different), strict=True))
        for row, (column, level) in enumerate(zip(self.columns, self.levels, strict=True)):
            first, shown = column != shown, column
            cells = [names[column] if first else "", "" if level is None else tables.one_line(level)]
            cells.append(f"{100 * self.missing[row]:.1f} %" if first else "")
            values = map(
                _with_error, (*self.means[row], self.overall[row]), (*self.errors[row], self.overall_errors[row])
            )
            rows.append(pick([*cells, *values]))
        lines = tables.columns(rows, "".join(pick("<<>" + ">" * (k + 1))))
        plural = ("es" if self.noun.endswith("s") else "s") * (k > 1)
        title = f"{k} {self.noun}{plural}, {tables.number(self.observations)} observations; mean ± standard error"
        note = [] if self.note is None else [f"Without standard errors: {self.note}"]
        return "\n".join([title, *lines, *note])

    __repr__ = __str__

    def as_dict(self) -> dict[str, Any]:
        """The table by columns.

        Returns:
            A dict: ``column``, ``level``, ``missing``, for each class its name and an ``error``,
            ``overall`` and ``overall_error``. Its first row, ``size``, holds the sizes of the classes.
        """
        nothing = [np.nan]
        found: dict[str, Any] = {"column": ["size", *self.columns], "level": [None, *self.levels]}
        found["missing"] = np.r_[nothing, self.missing]
        plain = self.classes == class_names(len(self.sizes), None, self.noun)
        for j, (size, error) in enumerate(zip(self.sizes, self.size_errors, strict=True)):
            head, tail = (f"{self.noun}_{j}", f"error_{j}") if plain else (self.classes[j], f"{self.classes[j]}_error")
            found[head] = np.r_[size, self.means[:, j]]
            found[tail] = np.r_[error, self.errors[:, j]]
        found["overall"] = np.r_[nothing, self.overall]
        found["overall_error"] = np.r_[nothing, self.overall_errors]
        return found


def _with_error(value: float, error: float) -> str:
    if not np.isfinite(error):
        return f"{tables.number(value, 3)} ± –"
    return " ± ".join(tables.with_error(value, error))


def profile(
    model: Any,
    params: Fit | Params,
    data: Data,
    *,
    route: Route | None = None,
    robust: bool = False,
    clusters: ArrayLike | None = None,
    names: Sequence[str] | None = None,
) -> Profile:
    r"""The profile of the classes of a mixture, or of the states of an HMM: sizes and means, with standard errors.

    .. math:: m_{kd} = E[x_d \mid k], \qquad m_d = \textstyle\sum_k w_k\, m_{kd}

    The size of a state is the share of all steps that it is expected to take, w_k = mean of p(z_t = k).
    For a column with levels the means are the probabilities of its levels. Columns and levels of a data frame appear by
    their names. Standard errors follow from ``jaxem.inference.covariance`` by the delta method.

    Arguments:
        model: a ``Mixture`` or an ``HMM``, of any family.
        params: the maximum, or its ``Fit``.
        data: the data of the fit.
        route, robust, clusters: as in ``jaxem.inference.covariance``.
        names: the names of the classes; default: ``class 0``, ``class 1``, ..., or ``state 0``, ...

    Returns:
        A ``Profile``; ``print`` it, or turn it into a data frame by ``to_frame()``. A value that is held at an edge of
        its space, such as a probability of zero, has no standard error (NaN). Where the information is not regular, no
        value has one, and ``note`` says why. Rows without any observed cell do not count in the share of missing cells.

    Raises:
        ValueError: the model has no means of classes, ``names`` are not K different texts, or the call is inside
            ``jit``, ``vmap`` or ``grad``.

    Source: Lazarsfeld & Henry (1968), chapter 3, for profiles of latent classes.
    """
    if trees.is_traced(params, data):
        raise ValueError("jaxem.inference.profile needs concrete values: it cannot run inside jit, vmap or grad")
    if not has(model, "class_means"):
        raise ValueError(
            f"jaxem.inference.profile needs a Mixture or an HMM, which have class_means; got {type(model).__name__}"
        )
    params, data, named = convert_named(model, params, data)
    labels = labels_of(model, data, named)
    rows, k = _rows(model, params, labels.columns), model.k
    noun = getattr(model, "class_noun", "class")
    of_classes = class_names(k, names, noun)
    note, deviations = None, np.full(k + len(rows) * (k + 1), np.nan)
    try:
        spread = spread_of(model, params, data, route, robust, clusters)
        deviations = np.array(_deviations(model, params, data, spread))
    except InformationError as error:
        note = str(error)
    if k == 1:
        deviations[0] = 0  # the size of a single class is a constant
    split = lambda flat: (flat[:k], *np.split(flat[k:].reshape(-1, k + 1), [k], axis=1))
    (sizes, means, overall), (size_errors, errors, overall_errors) = map(
        split, (np.asarray(_table(model, params, data)), deviations)
    )
    single = model.single_observations if has(model, "single_observations") else split_weights
    observations, weights = single(data)
    shares = _missing(observations, weights)
    return Profile(
        sizes, size_errors, tuple(row.column for row in rows), tuple(row.level for row in rows), means, errors,
        overall[:, 0], overall_errors[:, 0],
        np.array([shares[row.part][row.place] if row.part in shares else 0.0 for row in rows]),
        np.array([row.bounded for row in rows], bool),
        float(count(observations) if weights is None else weights.sum()),
        note, of_classes, labels.library, noun,
    )  # fmt: skip


class _Row(NamedTuple):
    column: str
    level: str | None
    part: str  # of the values
    place: int  # of the column within its part
    bounded: bool


def _located(model: Any, params: Params) -> list[tuple[Param, Array]]:
    """The arrays of means, with their axis of classes first, and the declaration of each without that axis."""
    found = []
    for param, leaf in model.class_means(params):
        place = param.axes.index("K")
        axes = param.axes[:place] + param.axes[place + 1 :]
        found.append((dataclasses.replace(param, axes=axes), jnp.moveaxis(leaf, place, 0)))
    return found


@program(quick="few numbers")
def _table(model: Any, params: Any, data: Data) -> Array:
    """The sizes (K,), followed by the means and the overall mean of each row, (M, K + 1), as one vector."""
    weights = model.class_sizes(params, data)
    means = jnp.concatenate([leaf.reshape(leaf.shape[0], -1).T for _, leaf in _located(model, params)])
    overall = (means * weights[None, :]).sum(axis=1, keepdims=True)
    return jnp.concatenate([weights, jnp.concatenate([means, overall], axis=1).ravel()])


@program(quick="few numbers")
def _deviations(model: Any, params: Params, data: Data, spread: Spread) -> Array:
    """The standard error of each number of the table; NaN where it moves with no coordinate that is free."""
    flat, shaped = ravel_pytree(params)
    moves = lambda direction: jax.jvp(lambda values: _table(model, shaped(values), data), (flat,), (direction,))[1]
    jacobian = jax.lax.map(moves, spread.jacobian.T).T
    held = ~((jacobian != 0) & spread.lives[None, :]).any(axis=1)
    return errors(spread._replace(jacobian=jacobian, held=held))


def _rows(model: Any, params: Params, columns: Mapping[str, Columns]) -> list[_Row]:
    rows = []
    for param, leaf in _located(model, params):
        own, shape, leveled = columns.get(param.part), leaf.shape[1:], answers.event_ndim(param.space) == 1
        labels, whole = param.labels(shape, own), param.part or "x"
        for places in itertools.product(*map(range, shape)):
            texts = [label[place] for label, place in zip(labels, places, strict=True)]
            level = texts.pop() if leveled else None
            place = (param.column or 0) if leveled else (places[0] if places else 0)
            if own is not None and place < len(own.names) and len(texts) <= 1:
                name = own.names[place]
            else:
                texts = texts or ([] if param.column is None else [str(param.column)])
                name = f"{whole}[{', '.join(texts)}]" if texts else whole
            rows.append(_Row(name, level, param.part, place, answers.unit(param.space) == 1))
    parts: dict[str, set[str]] = {}
    for row in rows:
        parts.setdefault(row.column, set()).add(row.part)
    qualified = lambda row: f"{row.part}.{row.column}" if len(parts[row.column]) > 1 else row.column
    return [row._replace(column=qualified(row)) for row in rows]


def _missing(data: Data, weights: Array | None) -> dict[str, np.ndarray]:
    """The share of missing cells of each column, of each part by its path."""
    found = {}
    for path, mask in jax.tree_util.tree_leaves_with_path(observed_of(data)):
        mask = np.asarray(mask)
        seen = np.average(mask.reshape(len(mask), -1), axis=0, weights=weights)
        found[jax.tree_util.keystr(path, simple=True, separator=".")] = 1 - seen
    return found
