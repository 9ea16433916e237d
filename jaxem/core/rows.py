"""The public functions of a model, derived from a few functions of rows (observations).

A structure writes functions of each row, given a context ``prepare(params, x)``: ``infer``, ``log_marginal``,
``complete`` and ``entropy_rows``. It also writes the M-step on sums over rows: ``sums``, ``maximum`` and ``expected``.
Weights enter in this file, in ``expectation`` and in ``sums``. A posterior carries the parameters of its E-step, and so
do statistics, because sums are taken about those parameters.
"""

from typing import Any, ClassVar, NamedTuple, Protocol

import jax.numpy as jnp
from jax import Array

from jaxem.core import parameters
from jaxem.core.compilation import precise, program
from jaxem.core.constraints import Spaces
from jaxem.core.contexts import Context, choose
from jaxem.core.conversion import admit, names_of, of_fit
from jaxem.core.data import Data, Sharded, counted, split_weights, total
from jaxem.core.dataset import arrays_of
from jaxem.core.model import Params, Posterior
from jaxem.core.sizes import of_rows


class Statistics(NamedTuple):
    """Sums over observations. Two of them may be added only where both are about the same parameters."""

    at: Params  # the parameters that the sums are about
    sums: Any  # the sums, as the model defines them


class Rows(Protocol):
    """The functions that a structure writes.

    Here x are observations without weights and c is a context. A posterior q is a record whose arrays have a row for
    each observation, except ``at`` and what all observations share; ``log_normalizer (N,)`` is one of them.

    These functions are optional. They return other posteriors, in the form of ``infer``:

    * ``mode(c, x)`` -- all probability on the most probable z.
    * ``tempered(c, x, inverse_temperature)`` -- the normalised power of p(x, z).
    * ``draw(c, x, key)`` -- all probability on one draw of z.

    These are optional too. Starts, ``profile``, ``select``, the criteria and ``Component`` ask for them:

    * ``first(key, data, given, start, active) -> (params, sound)`` -- a start for converted data, and whether it is
      sound; ``given``: class probabilities or ``None``, ``start``: its kind, ``active (K,)``: the classes that take
      part.
    * ``check_values(data)`` -- raises ``ValueError`` for data that cannot be fitted, whatever the parameters.
    * ``class_sizes(params, data) -> (K,)`` and ``class_means(params)`` -- the share of each class, and E x given each,
      arrays with their declarations. Where a row is no single observation also ``single_observations(data)``, which
      returns these and their weights, and ``class_noun``, what a class is called.
    * ``masked(active)``, with ``fewer(params, k)`` -- the same model with only those classes, and the parameters of the
      first k classes.
    * ``copies()`` -- many such models at once.
    * ``identified(params)`` -- the number of parameters that data can identify, where that is below their number.
    """

    def declare(self) -> parameters.Declared:
        """A ``Param`` for each array of the parameters."""
        ...

    def prepare(self, params: Params, x: Data | None) -> Context:
        """The context: what an iteration at these parameters needs more than once.

        Only the shapes of ``x`` are used; ``None`` where no observations will follow.
        """
        ...

    def infer(self, c: Context, x: Data) -> Posterior:
        """p(z | x)."""
        ...

    def log_marginal(self, c: Context, x: Data) -> Array:
        """log p(x_n), (N,), by a route that does not pass through ``infer``."""
        ...

    def complete(self, c: Context, q: Posterior, x: Data) -> Array:
        """E_q log p(x_n, z_n), (N,)."""
        ...

    def entropy_rows(self, c: Context, q: Posterior, x: Data) -> Array:
        """-E_q log q(z_n), (N,)."""
        ...

    def divergence_rows(self, q: Posterior, p: Posterior) -> Array:
        """KL(q || p) of each observation, (N,)."""
        ...

    def sums(self, c: Context | None, w: Array | None, q: Posterior, x: Data) -> Any:
        """Sums over observations with weights ``w (N,)`` (``None``: all one).

        They are taken about the parameters of the context, or about zero without a context.
        """
        ...

    def maximum(self, c: Context | None, sums: Any) -> Params:
        """The parameters that maximise Q plus the log-prior."""
        ...

    def expected(self, c: Context, params: Params, sums: Any) -> Array:
        """Q from the sums alone, up to a constant free of ``params``."""
        ...


class FromRows:
    """The functions of ``jaxem.Model``, derived from functions of rows. Subclasses never override them.

    In all of them ``params`` are the parameters, and ``data`` are N observations or a ``Dataset`` of them. Sums over
    observations count each one by its weight.
    """

    # The function of rows that each function needs.
    made_of: ClassVar[dict[str, str]] = {
        "c_step": "mode",
        "tempered_e_step": "tempered",
        "sample_posterior": "draw",
        "statistics": "sums",
        "maximize": "maximum",
        "m_step": "maximum",
        "expected_log_joint": "expected",
    }

    @property
    def constraints(self: Any) -> Spaces:
        """A tree with the space of each array of the parameters."""
        return parameters.spaces(self.declare())

    def _context(self: Any, at: Params | None, x: Data | None) -> Context | None:
        """The context at ``at``; ``None`` for a q made by hand without parameters, whose sums are about zero."""
        return None if at is None else self.prepare(at, x)

    @precise
    def _posterior(self: Any, by: str, params: Params, data: Data, *more: Any) -> Posterior:
        data, params = arrays_of(data, names_of(params)), of_fit(params)
        x = counted(data)[0]
        q = choose(self.prepare(params, x), lambda c: getattr(self, by)(c, x, *more))
        return q._replace(at=params)

    def e_step(self, params: Params, data: Data) -> Posterior:
        """The posterior p(z | x, params) of each observation.

        Arguments:
            params: the parameters, or a ``Fit``.
            data: N observations.

        Returns:
            A record whose arrays have N rows, except ``at``, which is ``params``, and what all observations share;
            ``log_normalizer (N,)`` is one of them.
        """
        return self._posterior("infer", params, data)

    def c_step(self, params: Params, data: Data) -> Posterior:
        """The posterior with all probability on the most probable z, in the form that ``e_step`` returns."""
        return self._posterior("mode", params, data)

    def tempered_e_step(self, params: Params, data: Data, inverse_temperature: Array | float) -> Posterior:
        r"""The tempered posterior of each observation, in the form that ``e_step`` returns.

        .. math:: q(z) \propto p(x, z \mid \theta)^\beta

        Arguments:
            params: the parameters.
            data: N observations.
            inverse_temperature: the exponent, a scalar; 1 gives the posterior.

        Returns:
            A posterior, whose ``log_normalizer`` is still log p(x | params).
        """
        return self._posterior("tempered", params, data, inverse_temperature)

    def sample_posterior(self, key: Array, params: Params, data: Data) -> Posterior:
        """One draw of z for each observation from its posterior, in the form that ``e_step`` returns.

        Arguments:
            key: a random key.
            params: the parameters.
            data: N observations.

        Returns:
            A posterior with all probability on the draw.
        """
        return self._posterior("draw", params, data, key)

    @precise
    def statistics(self: Any, q: Posterior, data: Data) -> Statistics:
        """The sums that the M-step needs, about the parameters ``q.at`` of the E-step.

        Arguments:
            q: a posterior, as ``e_step`` returns it.
            data: the same observations; each counts by its weight.

        Returns:
            ``Statistics(at, sums)``. Sums over parts of the data add up where ``at`` is the same.
        """
        x, w = counted(arrays_of(data))
        return Statistics(q.at, choose(self._context(q.at, x), lambda c: self.sums(c, w, q, x)))

    @precise
    def maximize(self: Any, statistics: Statistics) -> Params:
        """The parameters that maximise Q plus the log-prior, from ``statistics`` alone."""
        return self.maximum(self._context(statistics.at, None), statistics.sums)

    def m_step(self, q: Posterior, data: Data) -> Params:
        r"""The parameters that maximise Q plus the log-prior.

        .. math:: \arg\max_\theta\; E_q \log p(x, z \mid \theta) + \log p(\theta)

        Arguments:
            q: a posterior, as ``e_step`` returns it.
            data: the same observations.

        Returns:
            The new parameters.
        """
        return self.maximize(self.statistics(q, data))

    @precise
    def expected_log_joint(self: Any, params: Params, statistics: Statistics) -> Array:
        """Q at ``params``, a scalar, from the sums alone; exact up to a constant that does not depend on ``params``."""
        return self.expected(self._context(statistics.at, None), of_fit(params), statistics.sums)

    @precise
    def q_function(self: Any, params: Params, q: Posterior, data: Data) -> Array:
        r"""The expected complete-data log-likelihood Q, a scalar.

        .. math:: Q(\theta \mid q) = \sum_n w_n\, E_{q_n} \log p(x_n, z_n \mid \theta)

        Arguments:
            params: the parameters at which Q is evaluated; they may differ from ``q.at``.
            q: a posterior, as ``e_step`` returns it.
            data: the same observations.

        Returns:
            A scalar.
        """
        x, w = counted(arrays_of(data, names_of(params)))
        return total(choose(self.prepare(of_fit(params), x), lambda c: self.complete(c, q, x)), w)

    @precise
    def entropy(self: Any, q: Posterior, data: Data) -> Array:
        """The entropy -E_q log q of a posterior, a scalar, summed over observations."""
        x, w = counted(arrays_of(data))
        return total(self.entropy_rows(self._context(q.at, None), q, x), w)

    @precise
    def divergence(self: Any, q: Posterior, p: Posterior, data: Data) -> Array:
        """The divergence KL(q || p) between two posteriors, a scalar, summed over observations."""
        return total(self.divergence_rows(q, p), split_weights(data)[1])

    def log_normalizer(self, q: Posterior, data: Data) -> Array:
        """log p(x | params), a scalar, computed during the E-step that returned ``q``."""
        return total(q.log_normalizer, split_weights(data)[1])

    def log_prob(self, params: Params, data: Data) -> Array:
        """log p(x_n | params) of each observation; weights do not enter.

        Arguments:
            params: the parameters, or a ``Fit``.
            data: N observations, in any form that ``fit`` takes.

        Returns:
            An array (N,); NaN for an observation that is NaN, -inf for an impossible one.

        Raises:
            ValueError: parameters, data and model do not fit each other.
        """
        params, data = admit(self, params, data)
        return of_rows(lambda x: _log_prob(self, params, x), data)

    def log_likelihood(self, params: Params, data: Data) -> Array:
        r"""The log-likelihood of the data, the (weighted) sum of ``log_prob``.

        .. math:: \log p(x \mid \theta) = \sum_n w_n \log p(x_n \mid \theta)

        Arguments:
            params: the parameters, or a ``Fit``.
            data: N observations, in any form that ``fit`` takes; may be spread over devices.

        Returns:
            A scalar.

        Raises:
            ValueError: parameters, data and model do not fit each other.
        """
        params, data = admit(self, params, data)
        if isinstance(data, Sharded):
            return _log_likelihood(self, params, data)
        x, w = counted(data)
        return total(_log_prob(self, params, x), w)


@program
def _log_prob(model: Any, params: Params, x: Data) -> Array:
    return choose(model.prepare(params, x), lambda c: model.log_marginal(c, x))


@program
def _log_likelihood(model: Any, params: Params, data: Sharded) -> Array:
    """The log-likelihood of data that are spread over devices."""

    def of_part(operands: Any, part: Data) -> Array:
        model, context = operands
        x, w = counted(part)
        return total(choose(context, lambda c: model.log_marginal(c, x)), w)

    return data.total(of_part, (model, model.prepare(params, data)))


def weighted(r: Array, w: Array | None) -> Array:
    """``r (N, ...)`` times the weights (N,); a row of weight zero becomes zero, even where it is NaN."""
    if w is None:
        return r
    w = w.astype(r.dtype).reshape(-1, *(1,) * (r.ndim - 1))
    return jnp.where(w == 0, 0, r * w)
