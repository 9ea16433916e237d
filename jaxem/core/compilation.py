"""Compilation, where it takes longer than the work."""

from collections.abc import Callable
from typing import Any

import jax

from jaxem.core.trees import is_traced

_FEW = 2**16  # numbers on which nothing takes long


def quick_jit(function: Callable[..., Any], *, static_argnames: Any = (), always: bool = False) -> Callable[..., Any]:
    """``jax.jit``, on a CPU at low optimisation where arguments are few numbers (or ``always``): for what runs once.

    Inside another trace it is that one's to say how to compile.
    """
    thorough = jax.jit(function, static_argnames=static_argnames)
    quick = jax.jit(function, static_argnames=static_argnames, compiler_options={"xla_backend_optimization_level": 0})

    def call(*arguments: Any) -> Any:
        few = always or sum(leaf.size for leaf in jax.tree.leaves(arguments) if hasattr(leaf, "size")) <= _FEW
        if few and jax.default_backend() == "cpu" and not is_traced(arguments):
            return quick(*arguments)
        return thorough(*arguments)

    return call
