"""A model with restricted parameters, or with a log-prior of the user's: the same rows, another M-step."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import constraints, parameters, trees
from jaxem.core.compilation import program
from jaxem.core.contexts import Context
from jaxem.core.data import Data
from jaxem.core.model import Params, Posterior
from jaxem.core.parameters import Declared, Param
from jaxem.core.records import register
from jaxem.core.rows import FromRows
from jaxem.core.spaces import Space, answers
from jaxem.core.spaces.linked import Linked, links
from jaxem.models.restricted import closed, newton
from jaxem.models.restricted.parts import Part, parts_of

Prior = Callable[[Params], Array]

# What a restriction takes away: forms of the model that do not know of it.
_WITHOUT = ("masked", "fewer", "maskable", "copies", "holds")
_OF_ORDER = ("permute", "label_keys")  # only where classes may be renumbered
_OF_ROTATION = ("rotate", "canonical", "redundant")  # only where factors may be rotated


class Prepared(NamedTuple):
    """The context of the model, and the parameters that it was prepared from."""

    at: Params
    own: Context


@register
@dataclasses.dataclass(frozen=True)
class Restricted(FromRows):
    """``model`` with parameters in other ``spaces``, and log-priors added; ``restrict`` and ``with_prior`` make it.

    What the model offers beside the functions of rows (predictions, samples, decoding) is there unchanged.
    """

    model: Any
    spaces: tuple[Space, ...] = dataclasses.field(metadata={"static": True})  # one for each array, in order
    touched: tuple[int, ...] = dataclasses.field(metadata={"static": True})  # which arrays are restricted
    symmetric: bool = dataclasses.field(metadata={"static": True})  # whether classes may be renumbered
    priors: tuple[Prior, ...] = dataclasses.field(default=(), metadata={"static": True})

    def __getattr__(self, name: str) -> Any:
        own = object.__getattribute__(self, "__dict__")
        if name.startswith("_") or "model" not in own or name in _WITHOUT or (name in _OF_ORDER and not self.symmetric):
            raise AttributeError(f"{type(self).__name__} has no {name!r}")
        if name in _OF_ROTATION and self._rotation_is_lost:
            raise AttributeError(f"{type(self).__name__} has no {name!r}: its factors cannot be rotated")
        return getattr(own["model"], name)

    @property
    def _rotation_is_lost(self) -> bool:
        names = trees.leaf_names(_numbers(self.model.declare())) if self.touched else []
        return bool(self.priors) or any(names[i].rpartition(".")[2] == "loadings" for i in self.touched)

    def declare(self) -> Declared:
        declared = self.model.declare()
        params = [
            dataclasses.replace(param, space=space)
            for param, space in zip(parameters.leaves(declared), self.spaces, strict=True)
        ]
        return jax.tree.unflatten(_structure(declared), params)

    def project(self, params: Params) -> Params:
        """Parameters under the restriction, near ``params``: held elements at their values, tied ones at their mean."""
        return constraints.project(self.constraints, params)

    # Rows, as for the model

    def prepare(self, params: Params, x: Data | None) -> Prepared:
        return Prepared(params, self.model.prepare(params, x))

    def infer(self, c: Prepared, x: Data) -> Posterior:
        return self.model.infer(c.own, x)

    def mode(self, c: Prepared, x: Data) -> Posterior:
        return self.model.mode(c.own, x)

    def tempered(self, c: Prepared, x: Data, inverse_temperature: Array | float) -> Posterior:
        return self.model.tempered(c.own, x, inverse_temperature)

    def draw(self, c: Prepared, x: Data, key: Array) -> Posterior:
        return self.model.draw(c.own, x, key)

    def log_marginal(self, c: Prepared, x: Data) -> Array:
        return self.model.log_marginal(c.own, x)

    def complete(self, c: Prepared, q: Posterior, x: Data) -> Array:
        return self.model.complete(c.own, q, x)

    def entropy_rows(self, c: Prepared | None, q: Posterior, x: Data) -> Array:
        return self.model.entropy_rows(c and c.own, q, x)

    def divergence_rows(self, q: Posterior, p: Posterior) -> Array:
        return self.model.divergence_rows(q, p)

    def sums(self, c: Prepared | None, w: Array | None, q: Posterior, x: Data) -> Any:
        return self.model.sums(c and c.own, w, q, x)

    def expected(self, c: Prepared, params: Params, sums: Any) -> Array:
        return self.model.expected(c.own, params, sums)

    def log_prior(self, params: Params) -> Array | float:
        """That of the model, and those that were added."""
        own = self.model.log_prior(params) if hasattr(self.model, "log_prior") else 0.0
        return own + sum(prior(params) for prior in self.priors)

    # Starts

    def first(self, *arguments: Any) -> tuple[Params, Array]:
        """A start of the model, moved under the restriction, and whether it is sound."""
        params, sound = self.model.first(*arguments)
        return self.project(params), sound

    def init(self, key: Array, data: Data, **keywords: Any) -> Params:
        """Parameters to start a fit from: those of the model's ``init``, moved under the restriction by ``project``."""
        return _projected(self, self.model.init(key, data, **keywords))

    # The M-step

    def maximum(self, c: Prepared | None, sums: Any) -> Params:
        """The maximiser of Q plus the log-prior under the restriction: of each part of the model that is not touched,
        the model's own; of others a closed form, or a Newton method."""
        loose = self.model.maximum(c and c.own, sums)
        touched = self._touched_parts(loose)
        if not touched:
            return loose
        if c is None:
            raise ValueError("the M-step of a restricted model needs the parameters of the E-step: q.at is None")
        structure = jax.tree.structure(loose)
        new: list[Any] = jax.tree.leaves(loose)
        climb: list[int] = []
        linked = {j for i, space in enumerate(self.spaces) for j in (i, *links(space, i)) if isinstance(space, Linked)}
        for part in touched:
            found = None if linked & set(part.leaves) else self._closed(part, c, sums, loose)
            if found is None:
                climb += part.leaves
            else:
                new = [found.get(i, leaf) for i, leaf in enumerate(new)]
        if climb:
            new = self._climbed(sorted(climb), c, sums, new)
        return constraints.linked(self.constraints, jax.tree.unflatten(structure, new))

    def _touched_parts(self, params: Params) -> list[Part]:
        """The parts that hold a restricted array, or one on which a prior depends."""
        touched = set(self.touched).union(*(_read_by(prior, params) for prior in self.priors))
        return [part for part in parts_of(self.model) if touched & set(part.leaves)]

    def _closed(self, part: Part, c: Prepared, sums: Any, loose: Params) -> dict[int, Array] | None:
        """The arrays of a part in closed form; ``None`` where there is none."""
        if set(part.leaves) & set().union(*(_read_by(prior, loose) for prior in self.priors)):
            return None
        leaves, structure = jax.tree.flatten(loose)
        at = jax.tree.leaves(c.at)
        spaces: list[Any] = [self.spaces[i] for i in part.leaves]
        here, free = [at[i] for i in part.leaves], [leaves[i] for i in part.leaves]

        def counts() -> list[Array]:
            """n of Q = sum n log p: the gradient at equal p, times p."""

            def q(own: list[Array]) -> Array:
                whole = dict(zip(part.leaves, own, strict=True))
                params = jax.tree.unflatten(structure, [whole.get(i, leaf) for i, leaf in enumerate(leaves)])
                value = self.model.expected(c.own, params, sums)
                return value + (self.model.log_prior(params) if hasattr(self.model, "log_prior") else 0.0)

            even = [jnp.full(leaf.shape, 1 / leaf.shape[-1], leaf.dtype) for leaf in free]
            return [slope / leaf.shape[-1] for slope, leaf in zip(jax.grad(q)(even), even, strict=True)]

        found = None
        if part.counts:
            found = [
                closed.probabilities(s, a, f, lambda: counts()[0]) for s, a, f in zip(spaces, here, free, strict=True)
            ]
        elif part.family is not None and part.read is not None:
            found = closed.of_family(part.family, *part.read(c.own, sums), spaces, here, free, counts)
        if found is None or any(leaf is None for leaf in found):
            return None
        return dict(zip(part.leaves, found, strict=True))  # pyright: ignore[reportReturnType]

    def _climbed(self, climb: list[int], c: Prepared, sums: Any, new: list[Array]) -> list[Array]:
        """The arrays with those of ``climb`` at the maximum of Q plus the log-prior, the others as they are."""
        structure, at = jax.tree.structure(c.at), jax.tree.leaves(c.at)
        spaces = list(self.spaces)
        live = {i: answers.live(spaces[i], at[i].shape) for i in climb}

        def into(leaves: list[Array], like: list[Array]) -> Array:
            return jnp.concatenate([spaces[i].inverse(leaves[i], like[i])[live[i]] for i in climb])

        def out(v: Array, like: list[Array], rest: list[Array]) -> Params:
            leaves, start = list(rest), 0
            for i in climb:
                n = int(live[i].sum())
                zeros = jnp.zeros(live[i].shape, v.dtype)
                leaves[i] = spaces[i].forward(zeros.at[np.nonzero(live[i])].set(v[start : start + n]), like[i])
                start += n
            return constraints.linked(self.constraints, jax.tree.unflatten(structure, leaves))

        def make(arrays: Any) -> Callable[[Array], Array]:
            c, sums, like, rest = arrays

            def objective(v: Array) -> Array:
                params = out(v, like, rest)
                return self.model.expected(c.own, params, sums) + self.log_prior(params)

            return objective

        projected = jax.tree.leaves(self.project(jax.tree.unflatten(structure, new)))
        starts = jnp.stack([into(at, at), into(projected, at)])
        v = newton.maximizer(make, (c, sums, at, new), starts)
        return jax.tree.leaves(out(v, at, new))


@program(quick="few numbers")
def _projected(model: Restricted, params: Params) -> Params:
    return model.project(params)


def _numbers(declared: Declared) -> Any:
    return jax.tree.map(lambda _: 0, declared, is_leaf=lambda node: isinstance(node, Param))


def _structure(declared: Declared) -> Any:
    return jax.tree.structure(_numbers(declared))


def _read_by(prior: Prior, params: Params) -> set[int]:
    """The places of the arrays on which a log-prior depends."""
    traced = jax.make_jaxpr(prior)(params).jaxpr
    used = {id(var) for equation in traced.eqns for var in equation.invars} | {id(var) for var in traced.outvars}
    return {i for i, var in enumerate(traced.invars) if id(var) in used}
