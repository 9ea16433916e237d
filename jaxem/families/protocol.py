"""The protocol of a family: the distribution of one observation given its class, for all K classes at once."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import parameters
from jaxem.core.contexts import Context, choose
from jaxem.core.data import Columns, Data, Dataset, Spread, observed_of, plain, values_of
from jaxem.core.parameters import Declared
from jaxem.core.spaces import Real


class Family(Protocol):
    """The distribution of one observation given its class, for all K classes at once.

    ``x (N, ...)`` holds N observations of ``event_ndim`` axes each.

    A family of several columns that can use missing cells declares ``takes = ("observed",)``, one with covariates
    ``takes = ("given",)``. Where data have these parts, its x is a ``Dataset`` of rows instead of their values alone;
    ``core.data`` reads the parts (``values_of``, ``observed_of``). A missing cell holds some finite number, which must
    not matter. A family of single numbers (``event_ndim`` 0) need not know of missing cells: structures, and families
    of families, call the functions in ``observed.py``, which leave missing observations out.

    A family is independent of the latent structure. Mixtures and hidden Markov models pass weights
    r_nk = q(z_n = k), already multiplied by the observation weights, and get back sums over observations.

    A context c is what ``prepare`` returns for the parameters, once per iteration. Sums are taken about the parameters
    of their context, so that nothing cancels where the data are far from zero; ``maximize`` and ``expected`` correct
    for that. A start has no parameters yet: ``statistics`` and ``maximize`` then get ``None`` as the context, and sums
    are taken about zero. Where sums about zero are accurate enough for the location only, the family declares
    ``centred = True``, and a start makes a second pass. A family whose log-densities are right to a few units in the
    last place declares ``accurate = True``. One with parameters that all classes share declares ``separate = True``
    where a class without weight does not spoil them in ``maximize``; models that differ in K then share programs.

    These functions are optional. Those below this class supply the default where a family lacks one:

    * ``mean(params) -> (K, ...)`` -- the mean of an observation of each class; by default, its location. Or, for
      several columns with missing cells, ``impute(params, r, x)``: their means given the cells seen and the class
      probabilities r (N, K), shaped like the values (what it returns for cells that are seen is not used). And
      ``redraw(key, params, labels, x)``: draws given the class; without it the cells of a class are taken to be
      independent.
    * ``means(params)`` -- those means with their declarations, where values are no single array.
    * ``log_prior(params) -> ()`` -- a log-prior, which ``maximize`` must then include.
    * ``floor`` -- a field, not ``None`` where log-densities contain a factor that keeps variances from vanishing, so
      that they integrate to less than one; criteria and cross-validation then set it to ``None``.
    * ``check_shape(x, leading, title)`` -- raises ``ValueError`` for observations of another shape, and ``sizes(values,
      leading)`` returns the lengths of the axes that are declared with letters, where values are no single array.
      ``widths(given, leading)`` returns those that the covariates determine, and ``axis_labels(given, columns,
      leading)`` the names along them.
    * ``degenerate(params) -> ()`` -- whether a class has collapsed, so that its density is unbounded.
    * ``diagnose(x, dtype)`` -- a text that says why no start can be made from the NumPy rows ``x`` (their values, with
      missing cells filled), or ``None``.
    * ``contrasts(params) -> (K, F)`` -- numbers without units by which classes differ, or ``None``.

    * ``whole_rows`` -- a text that says why the family cannot use missing cells, for error messages.
    * ``tails(c, x) -> Tails`` -- P(X < x_n), P(X = x_n) and P(X > x_n), (N, K), for residuals (see ``tails.py``). A
      family that may be seen in part has them by its intervals.

    A family whose values that are seen may themselves be incomplete declares ``partial = True`` and has
    ``filled(params, r, x, key)``: the values completed by their means given the class probabilities r (N, K), or, with
    a key, by draws.

    A family with hidden variables u of its own also has all of these:

    * ``hidden(c, x)`` -- the posterior of u, leaves (N, K, ...).
    * ``complete(c, hidden, x) -> (N, K)`` -- E log p(x_n, u_n | k).
    * ``hidden_entropy(c, hidden, x) -> (N, K)`` -- the entropy of that posterior.
    * ``hidden_divergence(hidden, other) -> (N, K)`` -- the KL divergence from one posterior to another.
    * ``infer(c, x)`` -- optional: the log-density and the posterior of u together, where that is less work.
    * ``start(key, r, x) -> params`` -- where sums cannot be taken without parameters: a start with class weights r.

    A family of single numbers whose observations may be seen in part (``Censored``, ``Truncated``) also has these. In
    them the arrays of c are (1, K) or (N, K), ends of intervals are (N, 1), and ``parts.py`` has the equations. Where
    the family hides variables u of its own, expectations are over x and u. One for which intervals make no sense has
    ``never_in_part``, a text that says why.

    * ``bounds``, the ends of the support; and ``whole = True`` where x is a whole number: intervals then include both
      of their ends. Or ``turn = 2 pi`` where x is an angle: intervals are then arcs (``arcs.py``).
    * ``log_interval(c, low, high) -> (N, K)`` -- log P(low <= x <= high | k), accurate in the tails.
    * ``between(c, low, high)`` -- moments, leaves (N, K): what sums need of E[T(x) | low <= x <= high, k].
    * ``expected_log_density(c, moments) -> (N, K)`` -- E log p(x | k) by such moments, which may be of another c.
    * ``expected_statistics(c, r, moments)`` -- the sums, by moments in place of observations.
    * ``mean_between(c, low, high) -> (N, K)`` -- E[x | low <= x <= high, k]. And ``impute_between(c, r, low, high)``,
      (N,), where the mean under class probabilities r (N, K) is not their sum of these.
    * ``sample_between(key, params, labels, low, high) -> (n,)`` -- draws given low <= x <= high, numbers or (n,).
    """

    event_ndim: int
    support: str  # a description of valid observations, for error messages

    def declare(self) -> Declared:
        """A declaration of each array of the parameters: its space, its axes, whether it is a location."""
        ...

    def prepare(self, params: Any, x: Data | None) -> Context:
        """The context: whatever an iteration at these parameters needs more than once.

        Of the observations ``x`` only shapes and missing cells are used; ``None`` where none will follow.
        """
        ...

    def log_density(self, c: Context, x: Data) -> Array:
        """log p(x_n | class k), (N, K)."""
        ...

    def statistics(self, c: Context, r: Array, hidden: Any, x: Data) -> Any:
        """Sums over n, weighted by r (N, K), that determine the maximiser."""
        ...

    def maximize(self, c: Context, sums: Any) -> Any:
        """The parameters that maximise sum_nk r_nk log p(x_n | class k), plus the log-prior."""
        ...

    def expected(self, c: Context, params: Any, sums: Any) -> Array:
        """sum_nk r_nk log p(x_n | class k) from the sums alone, up to a constant free of ``params``."""
        ...

    def features(self, x: Data) -> Array:
        """Real numbers (N, F), close together where observations are alike, NaN where missing; used by starts."""
        ...

    def supports(self, x: Data) -> Array:
        """(N,), whether each observation lies in the support; a missing cell does."""
        ...

    def sample(self, key: Array, params: Any, labels: Array) -> Array:
        """One observation drawn for each label, (n, ...), from ``labels (n,)``."""
        ...


def takes(family: Any) -> tuple[str, ...]:
    """The parts of the data, beside values, that the family can use: ``"observed"``, ``"given"``."""
    declared = getattr(family, "takes", ())
    return (*declared, "observed") if family.event_ndim == 0 else declared


def own(family: Any, x: Data) -> Data:
    """The data as the family takes them: covariates that it does not use are left out."""
    x = x.data if isinstance(x, Spread) else x
    if not isinstance(x, Dataset) or x.given is None or "given" in takes(family):
        return x
    return plain(dataclasses.replace(x, given=None))


def check_shape(family: Any, x: Data, leading: tuple[str, ...], title: str) -> None:
    """Raise ``ValueError`` where the axes of the values of ``x`` are not ``leading`` followed by those of one event.

    ``title`` names what needs the values: the first words of the message.
    """
    if hasattr(family, "check_shape"):
        return family.check_shape(x, leading, title)
    values = values_of(x)
    if not hasattr(values, "ndim"):
        what = "nothing" if not jax.tree.leaves(values) else f"a {type(values).__name__}"
        raise ValueError(f"{title} needs one array of data; got {what}")
    events = ("D",) * family.event_ndim
    needs = f"{title} needs data of shape ({', '.join(leading + events)})"
    if values.ndim != len(leading) + len(events):
        hint = " For one sequence x, pass x[None]." if "T" in leading and values.ndim == 1 + len(events) else ""
        if not events and values.ndim == len(leading) + 1:
            hint = " Of a data frame pass one column: frame['name']."
        raise ValueError(f"{needs}; got shape {tuple(values.shape)}.{hint}")
    if 0 in values.shape:
        raise ValueError(f"{needs}; got shape {tuple(values.shape)}, which holds nothing")
    columns = getattr(family, "dimensions", None)
    if columns is not None and values.shape[-1] != columns:
        why = "its prior is" if getattr(family, "prior", None) is not None else "its levels are"
        raise ValueError(f"{needs} with D = {columns}, as {why}; got shape {tuple(values.shape)}")


def axis_labels(family: Any, given: Any, columns: Mapping[str, Columns], leading: int) -> dict[str, list[str]]:
    """The names along the axes that covariates determine, as far as these have names."""
    return family.axis_labels(given, columns, leading) if hasattr(family, "axis_labels") else {}


def sizes(family: Any, values: Any, leading: int) -> dict[str, int]:
    """The lengths of the axes that the family declares with letters, as far as values or the family itself tell.

    ``values`` have ``leading`` axes before those of an event; they may be ``None``.
    """
    if hasattr(family, "sizes"):
        return family.sizes(values, leading)
    if values is not None and family.event_ndim:
        return {"D": values.shape[leading]}
    dimensions = getattr(family, "dimensions", None)
    return {} if dimensions is None else {"D": dimensions}


def missing_as_nan(x: Data) -> Array:
    """The values of ``x``, with NaN in missing cells."""
    values, observed = values_of(x), observed_of(x)
    return values if observed is None else jnp.where(observed, values, jnp.nan)


def impossible(x: Array, dtype: jnp.dtype) -> Array:
    """The log-density of observations outside the support, (N,): NaN where the observation is NaN, else -inf."""
    unknown = jnp.isnan(x).reshape(x.shape[0], -1).any(axis=1)
    return jnp.where(unknown, jnp.nan, -jnp.inf).astype(dtype)


def log_density(family: Any, params: Any, x: Data) -> Array:
    """log p(x_n | class k), (N, K), with a context made for this call."""
    return choose(family.prepare(params, x), lambda c: family.log_density(c, x))


def hidden_divergence(family: Any, u: Any, v: Any) -> Array:
    """KL between two posteriors of the family's own hidden variables, (N, K); the family must have some."""
    return family.hidden_divergence(u, v)


def log_prior(family: Any, params: Any) -> Array | float:
    """The family's log-prior; 0 without one."""
    return family.log_prior(params) if hasattr(family, "log_prior") else 0.0


def has_prior(family: Any) -> bool:
    """Whether the family has a log-prior."""
    return hasattr(family, "log_prior") and getattr(family, "prior", family) is not None


def separate(family: Any) -> bool:
    """Whether a class without weight leaves the parameters of the others as they are in ``maximize``."""
    return getattr(family, "separate", False) or parameters.all_of_classes(family.declare())


def means(family: Any, params: Any) -> list[tuple[parameters.Param, Array]]:
    """E x given each class: arrays with an axis of classes, each with its declaration."""
    if hasattr(family, "means"):
        return family.means(params)
    if hasattr(family, "mean"):
        found = family.mean(params)
        return [(parameters.Param.of(Real(), "K D" if found.ndim == 2 else "K", location=True), found)]
    declared = jax.tree.leaves(family.declare(), is_leaf=lambda node: isinstance(node, parameters.Param))
    return [pair for pair in zip(declared, jax.tree.leaves(params), strict=True) if pair[0].location]


def degenerate(family: Any, params: Any) -> Array:
    """Whether a class has collapsed; false where the family does not say."""
    return family.degenerate(params) if hasattr(family, "degenerate") else jnp.bool_(False)


def diagnose(family: Any, x: Any, dtype: np.dtype) -> str | None:
    """Why no start can be made from the rows ``x``; ``None`` where no reason is found."""
    return family.diagnose(x, dtype) if hasattr(family, "diagnose") else None


# In units of a standard deviation, a log-rate or a probability: far below the differences of classes worth separating.
_ALIKE = 0.03


def contrasts(family: Any, params: Any) -> Array | None:
    """Numbers without units by which classes differ, (K, F); ``None`` where the family does not say."""
    return family.contrasts(params) if hasattr(family, "contrasts") else None


def coincide(family: Any, params: Any, active: Array | None = None) -> Array:
    """Whether every class equals, or nearly equals, another one; false where the family has no ``contrasts``.

    ``active (K,)`` says which classes there are; ``None`` means all.
    """
    found = contrasts(family, params)
    if found is None:
        return jnp.bool_(False)
    gaps = jnp.abs(found[:, None, :] - found[None, :, :]).max(axis=-1)
    others = jnp.where(jnp.eye(gaps.shape[0], dtype=bool), jnp.inf, gaps)
    if active is None:
        return (others.min(axis=1) <= _ALIKE).all()
    others = jnp.where(active[None, :], others, jnp.inf)
    return ((others.min(axis=1) <= _ALIKE) | ~active).all()
