"""A watched run: what it reports, what it saves, how it ends; and that a plain call has nothing of it."""

import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import case
from watched import child, many, run_of, same, until, whole

import jaxem
from jaxem import FitError, Status
from jaxem.core import interrupts
from jaxem.fitting import Report, pieces, watch
from jaxem.fitting.result import usable

MIXTURE, MANY = case("normal mixture", "float64"), many()


@pytest.fixture(autouse=True)
def heeds_interrupts():
    """Ctrl-C raises, even where the tests run in the background of a shell, which ignores it there."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_report_has_the_values_of_its_step(single_steps):
    seen: list[Report] = []
    fit = jaxem.fit(*MIXTURE, progress=seen.append)
    assert [report.steps for report in seen] == list(range(1, int(fit.steps) + 1))
    trace = np.asarray(fit.trace)
    for before, report in zip([trace[0], *trace[1:]], seen, strict=False):
        assert report.objective == trace[report.steps]
        assert report.gain == trace[report.steps] - before
        assert report.evaluations == report.steps + 1
    assert seen[-1].left == fit.left and seen[-1].left > 0 and np.isnan(seen[0].left)
    seconds = [report.seconds for report in seen]
    assert seconds == sorted(seconds) and seconds[0] > 0
    with pytest.raises(AttributeError):
        seen[0].steps = 3


def test_a_report_is_a_line_of_text():
    assert str(Report(6, -1131.25, 2.5, 0.0123, 7, 1.26)) == "6 steps, 1.3 s, objective -1131.25, about 0.012 left"
    assert str(Report(1, None, None, float("nan"), 2, 0.0)) == "1 step, 0.0 s"


def test_a_model_without_an_objective_reports_none(single_steps):
    seen = []
    model = jaxem.Model(lambda theta, x: theta / 2, lambda q, x: q + x.mean())
    fit = jaxem.fit(model, 0.5, jnp.arange(3.0), progress=seen.append)
    assert fit.converged and seen[-1].objective is None and seen[-1].gain is None
    assert seen[-1].steps == fit.steps


def test_pieces_grow_until_they_take_their_time():
    steps, taken = 1, []
    for _ in range(12):
        taken.append(steps)
        steps = pieces._next(steps, 5.0 if len(taken) == 1 else 1e-3 * steps, 0.2)  # the first one compiles
    assert taken[:5] == [1, 1, 4, 16, 64] and taken[-1] == 200
    assert pieces._next(200, 2.0, 0.2) == 20 and pieces._next(1, 9.0, 0.2) == 1


def test_checkpoints_that_shall_come_often_make_short_pieces(tmp_path):
    made = watch.watching("fit", None, tmp_path / "run", 0.01, "", "")
    assert made.piece == 0.01 and watch.watching("fit", None, tmp_path / "run", 60, "", "").piece == watch.PIECE


@pytest.mark.slow
def test_the_bar(capsys):
    fit = jaxem.fit(*MIXTURE, progress=True)
    shown = capsys.readouterr().err
    assert f"{int(fit.steps)}/1000" in shown and f"objective {float(fit.objective):.8g}" in shown
    jaxem.fit_many(*MANY, progress=True, max_steps=20)
    assert "9/9" in capsys.readouterr().err
    jaxem.fit_many_restarts(MANY[0], MANY[2], key=jax.random.key(0), restarts=2, max_steps=5, progress=True)
    assert "18/18" in capsys.readouterr().err


def test_a_bar_without_tqdm_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match=r'pip install "jaxem\[progress\]"'):
        jaxem.fit(*MIXTURE, progress=True)
    assert jaxem.fit(*MIXTURE, progress=lambda report: None).converged


@pytest.mark.parametrize("function", [jaxem.fit, jaxem.fit_many])
@pytest.mark.parametrize(
    "options, says",
    [
        ({"progress": 3}, "progress must be True, for a bar, or a function"),
        ({"checkpoint": 3}, "checkpoint must be the path of a file; it is 3"),
        ({"checkpoint": "no/such/folder/run"}, "lies in a folder that does not exist"),
        ({"checkpoint": "."}, "is a folder"),
        ({"checkpoint": "run", "every": -1.0}, "every must be a finite number"),
    ],
)
def test_options_that_are_wrong(function, options, says):
    with pytest.raises(ValueError, match=says):
        function(*(MIXTURE if function is jaxem.fit else MANY), **options)


def test_an_exception_of_the_function_is_the_users(single_steps, tmp_path):
    class Enough(Exception):
        pass

    def stop(*_):
        raise Enough

    for call in (lambda: jaxem.fit(*MIXTURE, progress=stop), lambda: jaxem.fit_many(*MANY, progress=stop)):
        with pytest.raises(Enough):
            call()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_returns_the_fit_so_far(single_steps):
    whole = jaxem.fit(*MIXTURE)
    part = jaxem.fit(*MIXTURE, progress=until(4))
    assert part.status == Status.INTERRUPTED and part.steps == 4 and not part.converged and usable(part.status)
    np.testing.assert_array_equal(part.trace[:5], whole.trace[:5])
    assert np.isnan(part.trace[5:]).all() and part.objective == whole.trace[4]
    with pytest.raises(FitError, match=r"INTERRUPTED after 4 steps: .* jaxem.resume"):
        jaxem.check(part)
    assert "INTERRUPTED" in str(part)


@pytest.mark.slow
def test_an_interrupt_of_many_returns_what_has_ended():
    whole, part = jaxem.fit_many(*MANY), jaxem.fit_many(*MANY, batch_size=2, progress=until(2))
    ended = part.status != Status.INTERRUPTED
    assert ended.any() and not ended.all()
    np.testing.assert_array_equal(part.steps[ended], whole.steps[ended])
    assert (part.steps[~ended] < whole.steps[~ended]).all()


def test_a_run_that_ends_with_the_last_piece_has_ended(single_steps):
    steps = int(jaxem.fit(*MIXTURE).steps)
    assert jaxem.fit(*MIXTURE, progress=until(steps)).status == Status.CONVERGED


def test_a_first_interrupt_waits_and_a_second_does_not():
    with interrupts.Interrupts() as waiting:
        waiting.check()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(interrupts.Interrupted):
            waiting.check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    own = lambda number, frame: None
    signal.signal(signal.SIGINT, own)
    try:
        with interrupts.Interrupts():
            assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize("kind", ["one", pytest.param("many", marks=pytest.mark.everything)])
@pytest.mark.slow
def test_ctrl_c(kind, tmp_path):
    path = tmp_path / "run"
    process = child(kind, path)
    assert process.stdout is not None and process.stdout.readline() == "a piece\n"
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert out.splitlines()[-1] == "INTERRUPTED"
    assert list(tmp_path.iterdir()) == [path]
    _, model, _, data = run_of(kind)
    same(jaxem.resume(path, model, data), whole(kind))


@pytest.mark.parametrize("watched", [{"progress": lambda report: None}, {"checkpoint": "run"}])
def test_a_traced_call_cannot_be_watched(watched):
    model, params, data = MIXTURE
    says = "progress and checkpoint work between compiled programs"
    with pytest.raises(ValueError, match=says):
        jax.jit(lambda x: jaxem.fit(model, params, x, **watched).params)(data)
    with pytest.raises(ValueError, match=says):
        jax.vmap(lambda x: jaxem.fit(model, params, x, **watched).params)(jnp.stack([data, data]))


@pytest.mark.slow
def test_a_watched_fit_has_the_derivative_of_the_plain_one():
    model, params, data = MIXTURE
    slope = lambda **watched: jax.grad(lambda x: jaxem.fit(model, params, x, **watched).objective)(data)
    np.testing.assert_array_equal(slope(progress=lambda report: None), slope())


def test_a_value_that_is_closed_over_is_refused():
    def objective(shift):
        model = jaxem.Model(lambda theta, x: theta / 2, lambda q, x: q + x.mean() + shift)
        return jaxem.fit(model, 0.5, jnp.arange(3.0), progress=lambda report: None).params

    with pytest.raises(ValueError, match="closes over"):
        jax.grad(objective)(1.0)


def test_a_plain_call_is_one_program(count_compilations, monkeypatch):
    def never(*_, **__):
        raise AssertionError("a plain call was watched")

    monkeypatch.setattr(watch.Watch, "__init__", never)
    monkeypatch.setattr(sys.modules["jaxem.fitting.fit"], "in_pieces", never)
    model, params, data = MIXTURE
    with count_compilations() as compiled:
        jaxem.fit(model, params, data[:51])  # a shape of its own
    steps = {"jit(_fit)", "jit(_begin)", "jit(_go_on)", "jit(finish)"}
    assert [name for name in compiled.names if name in steps] == ["jit(_fit)"]
    jaxem.fit_many(*MANY, max_steps=3, progress=False)


def test_a_watched_call_compiles_once(count_compilations, tmp_path):
    watched = {"progress": lambda report: None, "checkpoint": tmp_path / "run"}
    jaxem.fit(*MIXTURE, **watched)
    with count_compilations() as compiled:
        jaxem.fit(*MIXTURE, **watched, tol=1e-4)
    assert compiled.count == 0
