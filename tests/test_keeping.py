"""What the library keeps of the programs that it compiles: bounded, and nothing of what is gone."""

import dataclasses
import functools
import threading
import weakref
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxem
from jaxem.core import compilation
from jaxem.core.compilation import program
from jaxem.core.keeping import Kept, Same, loose
from jaxem.core.records import register

COUNTS = jnp.array([125.0, 18.0, 20.0, 34.0])


class Pair(NamedTuple):
    first: object
    second: object


@dataclasses.dataclass(frozen=True)
class Record:
    name: str
    function: object


@register
@dataclasses.dataclass(frozen=True)
class Node:
    leaf: object
    function: object = dataclasses.field(metadata={"static": True})


class Plain:
    def method(self):
        return self


def make():
    return lambda x: x


HOLDERS = {
    "alone": lambda f: f,
    "a tuple": lambda f: (1, f),
    "a named tuple": lambda f: Pair(f, "a"),
    "a dataclass": lambda f: Record("a", f),
    "a pytree": lambda f: jax.tree.structure(Node(1.0, f)),
    "a pytree in others": lambda f: jax.tree.structure({"a": [Node(1.0, (Record("a", f), 3))]}),
    "a partial function": lambda f: functools.partial(f, 1),
    "an optimiser": lambda f: optax.GradientTransformation(f, f),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_loose_key_equals_that_of_equal_things_and_keeps_no_function_alive(holder):
    f, g, hold = make(), make(), HOLDERS[holder]
    thing = hold(f)
    key, table = loose(thing), Kept(8)
    assert key == loose(thing) and hash(key) == hash(loose(thing))
    assert key != loose(hold(g))
    if holder != "a partial function":  # of which no two are equal
        assert key == loose(hold(f))
    table.put((thing,), "value")
    assert table.get((thing,)) == "value"
    gone = weakref.ref(f)
    del f, thing
    assert gone() is None and len(table) == 0
    assert key == key and hash(key) == hash(key)


def test_a_bound_method_goes_with_its_object_and_equals_that_of_no_other():
    one, other, table = Plain(), Plain(), Kept(8)
    table.put((one.method,), 1)
    assert table.get((one.method,)) == 1 and table.get((other.method,)) is None
    del one
    assert len(table) == 0


def test_what_has_an_equality_of_its_own_is_kept_by_it():
    table = Kept(8)
    table.put((Record("a", 1), jnp.float32, None, jax.tree.structure((1, None, {"b": 2, "a": 3}))), 1)
    assert table.get((Record("a", 1), jnp.float32, None, jax.tree.structure((1, None, {"a": 3, "b": 2})))) == 1
    assert table.get((Record("b", 1), jnp.float32, None, jax.tree.structure((1, None, {"a": 3, "b": 2})))) is None
    assert table.get((Record("a", 1), jnp.float32, None, jax.tree.structure((1, None, {"a": 3, "c": 2})))) is None


def test_a_dead_object_equals_nothing_even_one_in_its_place():
    thing = Plain()
    same = Same(thing)
    assert same == Same(thing)
    other = Same(thing)
    del thing
    assert same == same and same != other


def test_the_value_used_longest_ago_goes_first():
    table = Kept(3)
    for i in range(3):
        table.put((i,), i + 1)
    assert table.get((0,)) == 1
    table.put((3,), 4)
    assert [table.get((i,)) for i in range(4)] == [1, None, 3, 4]
    table.drop(2)
    assert [table.get((i,)) for i in range(4)] == [None, None, None, 4]


def test_an_object_that_dies_while_the_table_is_used_is_buried_later():
    table, thing = Kept(3), Plain()
    table.put((thing,), 1)
    with table._lock:
        del thing
        assert len(table) == 1
    assert table.get((1,)) is None and len(table) == 0


def test_many_threads():
    table = Kept(5)
    failures = []

    def work(seed):
        rng = np.random.default_rng(seed)
        try:
            for i in rng.integers(0, 12, 400):
                f = make()
                table.put((f, i), i)
                assert table.get((f, i)) in (i, None)
                assert table.get((int(i),)) in (int(i) + 100, None)
                table.put((int(i),), int(i) + 100)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and len(table) <= 5


# Programs


@program(static_argnames=("power", "function"), donate_argnames=("given",))
def _sum(x, given=None, power=1, function=None):
    total = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(x)) ** power
    total = total if function is None else function(total)
    return total if given is None else (given + total, total)


def test_a_program_is_called_like_its_function():
    assert _sum([1.0, jnp.ones(2)], power=2) == 9
    assert _sum([1.0, jnp.ones(2)], None, power=1) == 3
    assert _sum(x=2.0, function=jnp.sqrt) == jnp.sqrt(2.0)
    assert _sum.__name__ == "_sum" and _sum.__wrapped__ is not None
    with pytest.raises(TypeError, match="pwer"):
        _sum(1.0, pwer=2)
    given = jnp.ones(3)
    np.testing.assert_array_equal(_sum(1.0, given)[0], [2, 2, 2])
    assert given.is_deleted()


def test_a_program_is_compiled_once_for_equal_shapes(count_compilations):
    x = {"a": jnp.arange(3.0), "b": (jnp.ones(4),)}
    y = {"a": jnp.arange(3.0) + 1, "b": (jnp.ones(4),)}
    with count_compilations() as compiled:
        _sum(x, power=3)
        assert compiled.names == ["jit(_sum)"]
        _sum(y, power=3)
        assert compiled.count == 1
        _sum(y, power=2)
        _sum({"a": jnp.ones(2), "b": (y["b"][0],)}, power=3)
        assert compiled.count == 3


def test_a_program_in_a_transformation():
    f = lambda x: _sum((x, x**2), power=2)
    assert jax.jit(f)(3.0) == 144
    assert jax.grad(f)(3.0) == 2 * 12 * 7
    np.testing.assert_array_equal(jax.vmap(f)(jnp.array([1.0, 3.0])), [4, 144])
    np.testing.assert_array_equal(jax.jit(jax.vmap(jax.grad(f)))(jnp.array([1.0, 3.0])), [12, 168])


def linkage(scale=1.0):
    return jaxem.Model(
        lambda theta, counts: scale * counts[0] * theta / (2.0 + theta),
        lambda z, counts: (z + counts[3]) / (z + counts[1:].sum()),
    )


def of_a_model():
    model = linkage()
    jaxem.fit(model, 0.5, COUNTS, max_steps=5)
    return [model.e_step, model.m_step]


def of_a_log_joint():
    def log_joint(params, y):
        return jnp.log(params) + y * jnp.log(jnp.array([0.3, 0.7])) + (1 - y) * jnp.log(jnp.array([0.7, 0.3]))

    model = jaxem.from_log_joint(log_joint, constraints=jaxem.Simplex())
    y = jnp.array([1.0, 0.0, 1.0, 1.0])
    params = jnp.array([0.5, 0.5])
    jaxem.fit(model, params, y, max_steps=2)
    jaxem.verify(model, params, y)
    jaxem.inference.bic(model, params, y)
    return [log_joint]


def of_an_optimiser():
    model = jaxem.from_log_joint(lambda params, y: params * jnp.array([y, -y]) - params**2)
    optimizer = optax.sgd(0.1)
    jaxem.fit(model, jnp.array([0.5, 0.4]), jnp.array([1.0, 0.5]), algorithm=jaxem.GEM(optimizer), max_steps=2)
    return [optimizer.update]


def of_an_accelerator():
    model = dataclasses.replace(linkage(), log_likelihood=lambda theta, counts: -((theta - 0.6) ** 2))
    jaxem.fit(model, 0.5, COUNTS, algorithm=jaxem.SQUAREM(), max_steps=3)
    return [model.m_step, model.log_likelihood]


def of_32_bits():
    model = dataclasses.replace(linkage(), log_likelihood=lambda theta, counts: -((theta - 0.6) ** 2))
    jaxem.fit(model, 0.5, COUNTS.astype(jnp.float32), max_steps=3)  # what is left takes a gradient
    return [model.m_step, model.log_likelihood]


def of_restarts():
    model = dataclasses.replace(linkage(), init=lambda key, counts: jax.random.uniform(key, dtype=counts.dtype))
    model = dataclasses.replace(model, log_likelihood=lambda theta, counts: -((theta - 0.6) ** 2))
    jaxem.fit_restarts(model, COUNTS, key=jax.random.key(0), restarts=2, max_steps=2)
    return [model.e_step, model.m_step, model.init]


def of_a_derivative():
    model = linkage()
    jax.grad(lambda counts: jaxem.fit(model, 0.5, counts).params)(COUNTS)
    return [model.e_step, model.m_step]


@pytest.mark.parametrize(
    "use",
    [of_a_model, of_a_log_joint, of_an_optimiser, of_an_accelerator, of_32_bits, of_restarts, of_a_derivative],
)
@pytest.mark.slow
def test_nothing_is_kept_of_functions_that_are_gone(use, collect):
    use()  # what JAX itself keeps of the operations
    before = len(compilation._PROGRAMS)
    gone = [weakref.ref(function) for function in use()]
    collect()
    assert [ref() for ref in gone] == [None] * len(gone)
    assert len(compilation._PROGRAMS) <= before
