"""How hard programs are compiled: in proportion to their work, unless forced; some beside what precedes them."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxem
from jaxem import datasets
from jaxem.core import compilation
from jaxem.families import MultivariateNormal, Normal
from jaxem.fitting import effort, work
from jaxem.models import HMM, Mixture

X = datasets.old_faithful()
MODEL = Mixture(MultivariateNormal(), 2)
KEY = jax.random.key(0)


def chosen(monkeypatch, act):
    """The efforts of the programs that ``act`` runs and that estimate their time."""
    seen, decide = [], compilation.effort_for

    def note(seconds):
        seen.append(decide(seconds))
        return seen[-1]

    with monkeypatch.context() as patch:
        patch.setattr(compilation, "effort_for", note)
        act()
    return seen


def test_the_effort_is_in_proportion_to_the_work():
    assert compilation.effort_for(1e-3) == "quick" and compilation.effort_for(0.25) == "light"
    assert compilation.effort_for(0.5) == "full" and compilation.effort_for(0.01) == "quick"
    with compilation.runs(100):  # programs that run many times
        assert compilation.effort_for(4e-3) == "full" and compilation.effort_for(1e-5) == "quick"
    assert compilation.effort_for(1e-3) == "quick"


def test_programs_that_estimate_no_time_are_compiled_by_their_numbers():
    effort_of = lambda quick, *numbers: compilation._options(quick, [np.zeros(n) for n in numbers], None)
    options = compilation._OPTIONS
    assert effort_of("never", 2000, 48) == options["light"] and effort_of("never", 2000, 49) == options["full"]
    assert effort_of("few numbers", 2**16) == options["quick"] and effort_of("few numbers", 2**16, 1) == options["full"]


def test_larger_fits_take_longer():
    params = MODEL.init(KEY, X)
    few, many = work.fit(MODEL, params, jnp.zeros((272, 2))), work.fit(MODEL, params, jnp.zeros((272_000, 2)))
    assert 0.001 < few < 0.01 < many
    assert work.iteration(MODEL, params, jnp.zeros((272, 2))) == few / 100


def test_the_estimate_counts_the_operations_of_the_trace():
    """By hand: the elements that are made, the products of a product of matrices, the turns of loops."""

    def seconds(e_step, m_step, params=1.0):
        return work.iteration(jaxem.Model(e_step, m_step), params, jnp.ones((100, 10))) - work._OVERHEAD

    mean = lambda q, x: q
    once = seconds(lambda theta, x: (x + theta).sum(), mean)  # 1,000 sums and one total
    np.testing.assert_allclose(once, 1001 * work._NUMBER, rtol=0.01)
    product = seconds(lambda theta, x: (x @ jnp.ones((10, 7)) + theta).sum(), mean)
    np.testing.assert_allclose(product, (70 + 700 + 700 + 1) * work._NUMBER + 100 * 10 * 7 * work._PRODUCT, rtol=0.01)
    turned = seconds(lambda theta, x: jax.lax.scan(lambda s, row: (jnp.cos(jnp.sin(s)), None), theta, x)[0], mean)
    np.testing.assert_allclose(turned, 100 * 2 * work._NUMBER, rtol=0.05)
    either = seconds(lambda theta, x: jax.lax.cond(theta > 0, lambda: (x + 1).sum(), lambda: theta), mean)
    np.testing.assert_allclose(either, 1003 * work._NUMBER, rtol=0.01)


def test_a_chain_counts_its_steps():
    """The estimate by numbers of data and parameters took 40 times too little, and chains were compiled quickly."""
    chain, x = HMM(MultivariateNormal(), 4), np.zeros((20, 1000, 2)) + np.random.default_rng(0).normal(size=(1000, 2))
    assert jaxem.explain(chain, chain.init(KEY, x), x).effort == "full"


def test_a_step_that_cannot_be_traced_is_no_matter_here():
    broken = jaxem.Model(lambda theta, x: theta + float(x.sum()), lambda q, x: q)
    assert work.iteration(broken, 1.0, jnp.ones(3)) == work._OVERHEAD


def test_long_fits_are_accelerated_by_default():
    many = np.repeat(X, 1000, axis=0)  # 272,000 rows
    params = MODEL.init(KEY, X)
    assert jaxem.explain(MODEL, params, X).algorithm == jaxem.EM()
    found = jaxem.explain(MODEL, params, many)
    assert found.algorithm == jaxem.SQUAREM() and found.seconds >= 1
    fitted = jaxem.fit(MODEL, params, many, max_steps=2)
    assert int(fitted.evaluations) == 1 + 3 * 2  # three a step
    assert int(jaxem.fit(MODEL, params, many, algorithm=jaxem.EM(), max_steps=2).evaluations) == 1 + 2
    assert jaxem.explain(MODEL, params, many, algorithm=jaxem.EM()).algorithm == jaxem.EM()
    assert jaxem.explain(MODEL, params, many, restarts=2).algorithm == jaxem.EM()
    without = jaxem.Model(lambda theta, x: jnp.exp(-(x - theta)), lambda q, x: (q * x).sum() / q.sum())
    far = np.linspace(0, 1, 20_000_000, dtype="float32")  # no objective: nothing to judge a leap by
    assert jaxem.explain(without, 0.5, far).algorithm == jaxem.EM()


@pytest.mark.slow
def test_an_effort_can_be_forced(monkeypatch):
    params = MODEL.init(KEY, X)
    fit = lambda: jaxem.fit(MODEL, params, X)
    assert chosen(monkeypatch, fit) == ["quick"]
    with effort("full"):
        assert chosen(monkeypatch, fit) == ["full"]
        with effort("light"):
            assert chosen(monkeypatch, fit) == ["light"]
        assert chosen(monkeypatch, fit) == ["full"]
    assert chosen(monkeypatch, fit) == ["quick"]
    with pytest.raises(ValueError, match="effort must be one of"), effort("hard"):
        pass
    with pytest.raises(ZeroDivisionError), effort("full"):
        raise ZeroDivisionError
    assert chosen(monkeypatch, fit) == ["quick"]


def test_another_thread_is_not_forced():
    found = []
    with effort("full"):
        thread = threading.Thread(target=lambda: found.append(compilation.effort_for(1e-3)))
        thread.start()
        thread.join()
    assert found == ["quick"]


def test_a_program_that_was_begun_is_not_compiled_again(count_compilations):
    double = compilation.program(lambda x: jnp.sin(x) * 2 + 0.125)
    with count_compilations() as compiled:
        compilation.ahead(double, jax.ShapeDtypeStruct((7,), np.dtype("float64")))
        np.testing.assert_allclose(double(np.arange(7.0)), 2 * np.sin(np.arange(7.0)) + 0.125)
    assert [name for name in compiled.names if "lambda" in name] == ["jit(<lambda>)"]


def test_an_error_of_a_program_that_was_begun_comes_from_its_call():
    def fails(x):
        raise ZeroDivisionError

    broken = compilation.program(fails)
    compilation.ahead(broken, jax.ShapeDtypeStruct((7,), np.dtype("float64")))
    with pytest.raises(ZeroDivisionError):
        broken(np.arange(7.0))


# explain


def test_explain_says_what_is_chosen():
    params = MODEL.init(KEY, X)
    one = jaxem.explain(MODEL, params, X)
    assert one.algorithm == jaxem.EM() and one.rows == 272 and one.rows_per_block >= 272
    assert one.effort == "quick" and one.lanes == one.side_by_side == 1
    assert one.seconds == work.fit(MODEL, params, jnp.asarray(X))
    text = str(jaxem.explain(MODEL, params, X, algorithm=jaxem.EM(block_size=100), restarts=200))
    assert "100 in a block" in text and "200, " in text and "batch_size=" in text
    with effort("light"):
        assert jaxem.explain(MODEL, params, X).effort == "light"


def test_explain_of_other_models():
    counts = datasets.earthquakes()[1][None].astype(float)
    chain = HMM(Normal(), 2)
    assert jaxem.explain(chain, chain.init(KEY, counts), counts, restarts=10).side_by_side == 1
    own = jaxem.Model(lambda theta, x: theta / 2, lambda q, x: q + x.mean())
    assert jaxem.explain(own, 1.0, jnp.arange(3.0)).rows_per_block is None
    with pytest.raises(ValueError, match="restarts must be at least 1"):
        jaxem.explain(MODEL, MODEL.init(KEY, X), X, restarts=0)
