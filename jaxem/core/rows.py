"""The public functions of a model, derived from a few functions of rows.

A structure writes what it says of each observation (a row) given a context, ``prepare(params)``: ``infer``,
``log_marginal``, ``complete``, ``entropy_rows``, and the sums over rows that its M-step needs: ``sums``, ``maximum``,
``expected``. Weights enter here, in ``expectation`` and in ``sums``. A posterior carries the parameters that it was
taken at, and so do statistics, for they are taken about those.
"""

from typing import Any, ClassVar, NamedTuple, Protocol

import jax.numpy as jnp
from jax import Array

from jaxem.core import parameters
from jaxem.core.compilation import program
from jaxem.core.constraints import Spaces
from jaxem.core.contexts import Context, choose
from jaxem.core.conversion import admit, of_fit
from jaxem.core.data import Data, Sharded, counted, split_weights, total
from jaxem.core.model import Params, Posterior


class Statistics(NamedTuple):
    """Sums over observations; only those about equal parameters add up."""

    at: Params  # what they are taken about
    sums: Any


class Rows(Protocol):
    """What a structure writes. x are observations without weights, c a context, q a record of which all arrays but
    ``at`` have a row for each observation, ``log_normalizer (N,)`` among them."""

    def declare(self) -> parameters.Declared:
        """What each array of the parameters is."""
        ...

    def prepare(self, params: Params, x: Data | None) -> Context:
        """What an iteration at these parameters needs more than once; ``x`` for its shapes only, ``None`` where no
        observations will be met."""
        ...

    def infer(self, c: Context, x: Data) -> Posterior:
        """p(z | x)."""
        ...

    def log_marginal(self, c: Context, x: Data) -> Array:
        """log p(x_n), (N,), by another route than ``infer``."""
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
        """Sums over observations of weights ``w (N,)`` (``None``: one each), about the parameters of the context, or
        about zero where there is none."""
        ...

    def maximum(self, c: Context | None, sums: Any) -> Params:
        """The parameters that maximise Q plus the log-prior."""
        ...

    def expected(self, c: Context, params: Params, sums: Any) -> Array:
        """Q from the sums alone, up to a constant free of ``params``."""
        ...

    # Other posteriors, in the form of that of ``infer``: ``mode(c, x)``, all probability on the most probable z;
    # ``tempered(c, x, inverse_temperature)``, the normalised power of p(x, z); ``draw(c, x, key)``, one draw of z.


class FromRows:
    """The functions of ``jaxem.Model``, derived. Nothing here is overridden."""

    # Which function of rows each one needs.
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
        """The space of each array of the parameters."""
        return parameters.spaces(self.declare())

    def _context(self: Any, at: Params | None, x: Data | None) -> Context | None:
        """Of a q that was made by hand, at no parameters, sums are taken about zero."""
        return None if at is None else self.prepare(at, x)

    def _posterior(self: Any, by: str, params: Params, data: Data, *more: Any) -> Posterior:
        params, x = of_fit(params), counted(data)[0]
        q = choose(self.prepare(params, x), lambda c: getattr(self, by)(c, x, *more))
        return q._replace(at=params)

    def e_step(self, params: Params, data: Data) -> Posterior:
        """p(z | x, params) of each observation."""
        return self._posterior("infer", params, data)

    def c_step(self, params: Params, data: Data) -> Posterior:
        """All probability on the most probable z of each observation."""
        return self._posterior("mode", params, data)

    def tempered_e_step(self, params: Params, data: Data, inverse_temperature: Array | float) -> Posterior:
        """q proportional to p(x, z | params)^inverse_temperature; ``log_normalizer`` is still log p(x)."""
        return self._posterior("tempered", params, data, inverse_temperature)

    def sample_posterior(self, key: Array, params: Params, data: Data) -> Posterior:
        """One draw of z of each observation."""
        return self._posterior("draw", params, data, key)

    def statistics(self: Any, q: Posterior, data: Data) -> Statistics:
        """The sums that the M-step needs, about the parameters of the E-step."""
        x, w = counted(data)
        return Statistics(q.at, choose(self._context(q.at, x), lambda c: self.sums(c, w, q, x)))

    def maximize(self: Any, statistics: Statistics) -> Params:
        """The M-step on sums."""
        return self.maximum(self._context(statistics.at, None), statistics.sums)

    def m_step(self, q: Posterior, data: Data) -> Params:
        """argmax of Q plus the log-prior."""
        return self.maximize(self.statistics(q, data))

    def expected_log_joint(self: Any, params: Params, statistics: Statistics) -> Array:
        """Q from the sums alone, up to a constant free of ``params``."""
        return self.expected(self._context(statistics.at, None), of_fit(params), statistics.sums)

    def q_function(self: Any, params: Params, q: Posterior, data: Data) -> Array:
        """E_q log p(x, z | params)."""
        x, w = counted(data)
        return total(choose(self.prepare(of_fit(params), x), lambda c: self.complete(c, q, x)), w)

    def entropy(self: Any, q: Posterior, data: Data) -> Array:
        """-E_q log q."""
        x, w = counted(data)
        return total(self.entropy_rows(self._context(q.at, None), q, x), w)

    def divergence(self: Any, q: Posterior, p: Posterior, data: Data) -> Array:
        """KL(q || p)."""
        return total(self.divergence_rows(q, p), split_weights(data)[1])

    def log_normalizer(self, q: Posterior, data: Data) -> Array:
        """log p(x | params), computed during the E-step."""
        return total(q.log_normalizer, split_weights(data)[1])

    def log_prob(self, params: Params, data: Data) -> Array:
        """log p(x_n | params) of each observation, (N,); NaN where it is NaN, -inf where it is impossible."""
        params, data = admit(self, params, data)
        return _log_prob(self, params, split_weights(data)[0])

    def log_likelihood(self, params: Params, data: Data) -> Array:
        """log p(x | params), the (weighted) sum of ``log_prob``."""
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
    """Of data that are spread over devices."""

    def of_part(operands: Any, part: Data) -> Array:
        model, context = operands
        x, w = counted(part)
        return total(choose(context, lambda c: model.log_marginal(c, x)), w)

    return data.total(of_part, (model, model.prepare(params, data)))


def weighted(r: Array, w: Array | None) -> Array:
    """``r (N, ...)`` times weights (N,); a row of weight zero counts for nothing, even where it is NaN."""
    if w is None:
        return r
    w = w.astype(r.dtype).reshape(-1, *(1,) * (r.ndim - 1))
    return jnp.where(w == 0, 0, r * w)
