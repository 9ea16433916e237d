"""Models that are wrong in one place: many of one model as one record, so that they share its compiled programs."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.data import values_of
from jaxem.core.records import register


@register
@dataclasses.dataclass(frozen=True)
class Mutants:
    """``model`` with the functions of ``changes[which - 1]`` in the place of its own; 0: as it is.

    A change takes the model and ``amount``, by how much it is wrong, and returns functions by their names. Where the
    M-step is changed, the model is not ``additive``: EM would use the statistics in its stead.
    """

    model: Any
    which: Array
    amount: Array
    changes: tuple[Any, ...] = dataclasses.field(metadata={"static": True})
    additive: bool = dataclasses.field(metadata={"static": True})

    @property
    def constraints(self):
        return self.model.constraints

    def _run(self, name, *arguments):
        functions, table = [getattr(self.model, name)], np.zeros(len(self.changes) + 1, np.int32)
        for i, change in enumerate(self.changes, 1):
            wrong = change(self.model, self.amount).get(name)
            if wrong is not None:
                table[i] = len(functions)
                functions.append(wrong)
        shapes = jax.eval_shape(functions[0], *arguments)

        def alike(function):
            cast = lambda leaf, shape: jnp.broadcast_to(jnp.asarray(leaf, shape.dtype), shape.shape)
            return lambda *arguments: jax.tree.map(cast, function(*arguments), shapes)

        return jax.lax.switch(jnp.asarray(table)[self.which], [alike(f) for f in functions], *arguments)

    def e_step(self, params, data):
        return self._run("e_step", params, data)

    def q_function(self, params, q, data):
        return self._run("q_function", params, q, data)

    def entropy(self, q, data):
        return self._run("entropy", q, data)

    def log_likelihood(self, params, data):
        return self._run("log_likelihood", params, data)

    def log_normalizer(self, q, data):
        return self._run("log_normalizer", q, data)

    @property
    def log_prior(self):
        if not hasattr(self.model, "log_prior"):
            return None
        return lambda params: jnp.asarray(self._run("log_prior", params), self.amount.dtype)

    def divergence(self, q, p, data):
        return self._run("divergence", q, p, data)

    def m_step(self, q, data):
        return self._run("m_step", q, data)

    def _if_additive(self, name):
        return (lambda *arguments: self._run(name, *arguments)) if self.additive else None

    @property
    def statistics(self):
        return self._if_additive("statistics")

    @property
    def maximize(self):
        return self._if_additive("maximize")

    @property
    def expected_log_joint(self):
        return self._if_additive("expected_log_joint")

    @property
    def permute(self):
        return self._if_additive("permute")

    @property
    def label_keys(self):
        return self.model.label_keys


def everywhere(model, change):
    """The same change of the data (their last argument) in all functions."""
    names = "e_step", "q_function", "entropy", "log_likelihood", "log_normalizer", "divergence", "m_step"
    names += ("statistics",)

    def changed(function):
        return lambda *arguments: function(*arguments[:-1], change(arguments[-1]))

    return {name: changed(getattr(model, name)) for name in names if hasattr(model, name)}


def scaled(model, by):
    """All sums times ``by(data)``."""
    names = "q_function", "entropy", "log_likelihood", "log_normalizer", "divergence"
    times = lambda f: lambda *arguments: f(*arguments) * by(arguments[-1])
    return {name: times(getattr(model, name)) for name in names}


def rows(x):
    """The observations of a mixture, as an array."""
    return values_of(x)


def with_lengths(change):
    """A change of the lengths, inside the weights or not."""

    def changed(data):
        return dataclasses.replace(data, lengths=change(data))

    return changed
