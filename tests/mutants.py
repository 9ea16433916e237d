"""Models that are wrong in one place: many of one model as one record, so that they share its compiled programs."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.records import register


@register
@dataclasses.dataclass(frozen=True)
class Mutants:
    """``model`` with the functions of ``changes[which - 1]`` in the place of its own; 0: as it is.

    A change takes the model and ``amount``, by how much it is wrong, and returns functions by their names; a function
    called "data" changes the data that all others are given. Where the M-step is changed, the model is not
    ``additive``: EM would use the statistics in its stead.
    """

    model: Any
    which: Array
    amount: Array
    changes: tuple[Any, ...] = dataclasses.field(metadata={"static": True})
    additive: bool = dataclasses.field(metadata={"static": True})

    @property
    def constraints(self):
        return self.model.constraints

    def _switch(self, name, own, *arguments):
        """The function of that name that the change has, or else ``own``."""
        functions, table = [own], np.zeros(len(self.changes) + 1, np.int32)
        for i, change in enumerate(self.changes, 1):
            wrong = change(self.model, self.amount).get(name)
            if wrong is not None:
                table[i] = len(functions)
                functions.append(wrong)
        if len(functions) == 1:
            return own(*arguments)
        shapes = jax.eval_shape(own, *arguments)

        def alike(function):
            cast = lambda leaf, shape: jnp.broadcast_to(jnp.asarray(leaf, shape.dtype), shape.shape)
            return lambda *arguments: jax.tree.map(cast, function(*arguments), shapes)

        return jax.lax.switch(jnp.asarray(table)[self.which], [alike(f) for f in functions], *arguments)

    def _run(self, name, *arguments):
        return self._switch(name, getattr(self.model, name), *arguments)

    def _on(self, name, *arguments):
        """The same of a function whose last argument is the data."""
        *others, data = arguments
        return self._run(name, *others, self._switch("data", lambda data: data, data))

    def e_step(self, params, data):
        return self._on("e_step", params, data)

    def q_function(self, params, q, data):
        return self._on("q_function", params, q, data)

    def entropy(self, q, data):
        return self._on("entropy", q, data)

    def log_likelihood(self, params, data):
        return self._on("log_likelihood", params, data)

    def log_normalizer(self, q, data):
        return self._on("log_normalizer", q, data)

    @property
    def log_prior(self):
        if not hasattr(self.model, "log_prior"):
            return None
        return lambda params: jnp.asarray(self._run("log_prior", params), self.amount.dtype)

    def divergence(self, q, p, data):
        return self._on("divergence", q, p, data)

    def m_step(self, q, data):
        return self._on("m_step", q, data)

    def _if_additive(self, name):
        return (lambda *arguments: self._run(name, *arguments)) if self.additive else None

    @property
    def statistics(self):
        return (lambda q, data: self._on("statistics", q, data)) if self.additive else None

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


def with_lengths(change):
    """A change of the lengths."""
    return lambda data: dataclasses.replace(data, lengths=change(data))


def with_weights(change):
    """A change of the weights."""
    return lambda data: dataclasses.replace(data, weights=change(data.weights))
