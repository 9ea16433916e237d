"""What a fit says about each observation, as a table: its class, or its scores."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxem.core import frame_output, tables, trees
from jaxem.core.conversion import convert_named
from jaxem.core.data import Data, Dataset, lengths_of
from jaxem.core.model import Params, has, require
from jaxem.fitting.result import Fit
from jaxem.inference.class_names import class_names

_SHOWN = 10  # rows that are printed


@dataclasses.dataclass(frozen=True, eq=False)
class _EachRow:
    """A table with a row for each observation, or for each step of each sequence."""

    row_labels: Any  # the pandas index of the data frame; None without one
    sequences: np.ndarray | None  # (M,), the sequence of each row; None where observations are no sequences
    steps: np.ndarray | None  # (M,), the step of each row
    library: str | None  # of the data frame that the data came as

    to_frame = frame_output.to_frame

    def _places(self) -> dict[str, Any]:
        if self.sequences is not None:
            return {"sequence": self.sequences, "step": self.steps}
        return {"row": np.arange(len(self))} if self.row_labels is None else {}

    def __len__(self) -> int:
        raise NotImplementedError

    def as_dict(self) -> dict[str, Any]:
        raise NotImplementedError

    def __str__(self) -> str:
        found = self.as_dict()
        if self.row_labels is not None:
            found = {"index": list(self.row_labels), **found}
        shown = lambda value: (
            tables.fixed(value, 3) if isinstance(value, float | np.floating) else tables.one_line(value)
        )
        rows = [
            list(found),
            *(list(map(shown, row)) for row in zip(*(c[:_SHOWN] for c in found.values()), strict=True)),
        ]
        lines = tables.columns(rows, "".join("<" if name in ("index", "class") else ">" for name in found))
        rest = len(self) - _SHOWN
        return "\n".join([*lines, *([f"... and {rest} more rows"] if rest > 0 else [])])

    __repr__ = __str__


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Classes(_EachRow):
    """The class of each observation; prints as a table."""

    classes: np.ndarray  # (M,), the most probable class; -1 where the observation is NaN or impossible
    probabilities: np.ndarray  # (M, K)
    names: tuple[str, ...]  # (K,), of the classes

    def __len__(self) -> int:
        return len(self.classes)

    def as_dict(self) -> dict[str, Any]:
        """The table by columns.

        Returns:
            A dict: ``row``, or ``sequence`` and ``step``; ``class``, by its name; and the probability
            of each class.
        """
        named = [None if one < 0 else self.names[one] for one in self.classes.tolist()]
        return self._places() | {"class": named} | dict(zip(self.names, self.probabilities.T, strict=True))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Scores(_EachRow):
    """The continuous hidden variables of each observation; prints as a table."""

    means: np.ndarray  # (M, F), posterior means
    deviations: np.ndarray  # (M, F), posterior standard deviations
    names: tuple[str, ...]  # (F,), of the hidden variables

    def __len__(self) -> int:
        return len(self.means)

    def as_dict(self) -> dict[str, Any]:
        """The table by columns.

        Returns:
            A dict: ``row``, or ``sequence`` and ``step``; and for each hidden variable its posterior
            mean and standard deviation, ``... sd``.
        """
        found = self._places()
        for name, mean, deviation in zip(self.names, self.means.T, self.deviations.T, strict=True):
            found |= {name: mean, f"{name} sd": deviation}
        return found


def classes(model: Any, params: Fit | Params, data: Data, *, names: Sequence[str] | None = None) -> Classes:
    r"""The most probable class of each observation and the probability of every class, as a table.

    .. math:: \hat z_n = \arg\max_k p(z_n = k \mid x_n, \theta)

    Of sequences each step has a row: its state on the most probable path (Viterbi), and the probability of each state
    given the whole sequence.

    Arguments:
        model: a model with classes or states: it needs ``predict_proba``.
        params: parameters of the model, or a ``Fit``.
        data: N observations or sequences, in any form that ``fit`` takes.
        names: the names of the classes; default: ``class 0``, ``class 1``, ...

    Returns:
        A ``Classes``; ``print`` it, or turn it into a data frame by ``to_frame()``, which has the index of the data
        frame that came in.

    Raises:
        ValueError: the model has no classes; ``names`` are not K different texts; the call is inside ``jit``, ``vmap``
            or ``grad``; or parameters, data and model do not fit each other.

    Source: Viterbi (1967) for paths.
    """
    require(model, "jaxem.classes", "predict_proba")
    params, data, labels = _converted("jaxem.classes", model, params, data)
    p = np.asarray(model.predict_proba(params, data))
    found = np.asarray(model.predict(params, data)) if has(model, "predict") else None
    if found is None or found.shape != p.shape[:-1]:
        found = np.where(np.isnan(p).any(axis=-1), -1, p.argmax(axis=-1))
    places, inside = _places_of(p, data, labels)
    return Classes(*places, classes=found[inside], probabilities=p[inside], names=class_names(p.shape[-1], names))


def scores(model: Any, params: Fit | Params, data: Data, *, names: Sequence[str] | None = None) -> Scores:
    r"""The posterior mean and standard deviation of the continuous hidden variables of each observation, as a table.

    .. math:: E[z_n \mid x_n, \theta], \qquad \operatorname{sd}(z_n \mid x_n, \theta)

    They are the factors of ``FactorAnalysis``, the abilities of ``ItemResponse``, and the states of ``StateSpace`` at
    each step, given the whole sequence.

    Arguments:
        model: one of these models: it needs ``latent_scores``.
        params: parameters of the model, or a ``Fit``.
        data: N observations or sequences, in any form that ``fit`` takes.
        names: the names of the hidden variables; default: ``factor 0``, ``ability 0``, ``state 0``, ...

    Returns:
        A ``Scores``; ``print`` it, or turn it into a data frame by ``to_frame()``, which has the index of the data
        frame that came in.

    Raises:
        ValueError: the model has no such variables; ``names`` are not as many different texts; the call is inside
            ``jit``, ``vmap`` or ``grad``; or parameters, data and model do not fit each other.

    Source: Thomson (1951), regression scores; Bock & Mislevy (1982) for abilities.
    """
    require(model, "jaxem.scores", "latent_scores")
    params, data, labels = _converted("jaxem.scores", model, params, data)
    kind, means, deviations = model.latent_scores(params, data)
    means = np.asarray(means)
    places, inside = _places_of(means, data, labels)
    deviations = np.broadcast_to(np.asarray(deviations), means.shape)
    named = class_names(means.shape[-1], names, kind)
    return Scores(*places, means=means[inside], deviations=deviations[inside], names=named)


def _converted(what: str, model: Any, params: Any, data: Data) -> tuple[Params, Data, Dataset]:
    if trees.is_traced(params, data):
        raise ValueError(f"{what} needs concrete values: it cannot run inside jit, vmap or grad")
    return convert_named(model, params, data)


def _places_of(found: np.ndarray, data: Data, labels: Dataset) -> tuple[tuple[Any, Any, Any, Any], Any]:
    """The labels of the rows of ``found (N, F)`` or ``(N, T, F)``, the library, and which of its places are rows."""
    index = None if labels.origin is None else labels.origin.index
    library = None if labels.origin is None else labels.origin.library or None
    if found.ndim == 2:
        return (index if _counts(index) == len(found) else None, None, None, library), slice(None)
    n, t = found.shape[:2]
    lengths = lengths_of(data)
    inside = np.ones((n, t), bool) if lengths is None else np.arange(t)[None, :] < np.asarray(lengths)[:, None]
    sequences, steps = np.nonzero(inside)
    joined = index[0].append(index[1:]) if isinstance(index, list) and len(index) == n else None
    return (joined if _counts(joined) == len(steps) else None, sequences, steps, library), inside


def _counts(index: Any) -> int:
    return -1 if index is None else len(index)
