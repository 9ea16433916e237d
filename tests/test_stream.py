"""Fits to data that are read in chunks: the fit in memory, from any source, over devices, in memory of a few chunks."""

import dataclasses
import itertools
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.feather
import pyarrow.parquet
import pytest
from closeness import as_dtype, assert_within, eps
from jax.scipy.special import logsumexp, xlogy
from jax.sharding import Mesh

import jaxem
from jaxem import SQUAREM, Anderson, AnnealedEM, Dataset, HardEM, Model
from jaxem.core import expectation, streams
from jaxem.core.data import size
from jaxem.core.reading import Layout, Reader, Stored
from jaxem.core.sources import source_of
from jaxem.families import MultivariateNormal, Normal, Poisson
from jaxem.fitting import first_look
from jaxem.fitting.result import USABLE
from jaxem.models import HMM, FactorAnalysis, Mixture

N = 1003
CHUNK = 4096  # bytes


def mixture_data(n=N):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 3)) + 5.0 * rng.integers(0, 2, n)[:, None]


def full(dtype):
    x = mixture_data().astype(dtype)
    return Mixture(MultivariateNormal(), 2), x


def weighted(dtype):
    rng = np.random.default_rng(1)
    return Mixture(MultivariateNormal("diag"), 2), Dataset(
        mixture_data().astype(dtype), weights=rng.integers(0, 3, N).astype(dtype)
    )


def ragged(dtype):
    rng = np.random.default_rng(2)
    states = (np.arange(20) // 7) % 2
    values = rng.poisson(np.array([2.0, 9.0])[states], size=(101, 20)).astype(dtype)
    return HMM(Poisson(), 2), Dataset(values, lengths=rng.integers(3, 21, 101).astype(np.int32))


def factors(dtype):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(N, 1)) * np.array([1.0, 2, -1, 0.5]) + rng.normal(size=(N, 4))
    return FactorAnalysis(1), x.astype(dtype)


def own(dtype):
    """Two normals of variance one, without Q from the sums, without an objective from the E-step."""

    def table(params, data):
        x = data.values
        return jnp.log(params[0])[None, :] - 0.5 * (x[:, None] - params[1][None, :]) ** 2

    def statistics(r, data):
        r = r * data.weights.astype(r.dtype)[:, None]
        return r.sum(axis=0), r.T @ data.values

    def total(values, data):
        return (data.weights.astype(values.dtype) * values).sum()

    x = mixture_data()[:, 0].astype(dtype)
    model = Model(
        lambda params, data: jax.nn.softmax(table(params, data), axis=1),
        statistics=statistics,
        maximize=lambda sums: (sums[0] / sums[0].sum(), sums[1] / sums[0]),
        log_likelihood=lambda params, data: total(logsumexp(table(params, data), axis=1), data),
    )
    return model, Dataset(x, weights=np.ones(N, dtype))


def bounded(dtype):
    """The same, with an objective that is Q + H."""
    model, data = own(dtype)
    table = lambda params, data: jnp.log(params[0])[None, :] - 0.5 * (data.values[:, None] - params[1][None, :]) ** 2
    total = lambda values, data: (data.weights.astype(values.dtype) * values.sum(axis=1)).sum()
    return Model(
        model.e_step,
        statistics=model.statistics,
        maximize=model.maximize,
        q_function=lambda params, r, data: total(r * table(params, data), data),
        entropy=lambda r, data: total(-xlogy(r, r), data),
    ), data


CASES = {"full": full, "weighted": weighted, "ragged chain": ragged, "factors": factors, "own": own, "bounded": bounded}


def start_of(model, data, dtype):
    if isinstance(model, Model):
        return as_dtype((np.array([0.4, 0.6]), np.array([0.5, 3.0])), dtype)
    return as_dtype(model.init(jax.random.key(0), data), dtype)


def same_fit(found, plain, size, dtype, slack=64.0):
    """The same objectives up to rounding error, step by step; ``slack`` is for what the steps make of it."""
    assert found.status == plain.status, (found, plain)
    steps = min(int(found.steps), int(plain.steps)) + 1
    rounding = slack * eps(dtype) * (np.abs(np.asarray(plain.trace[:steps], np.float64)) + size)
    assert_within(found.trace[:steps], plain.trace[:steps], rounding)
    # Where only rounding errors are left to climb, how many more steps are taken is chance.
    below = lambda fit: np.asarray(fit.trace[: int(fit.steps) + 1]) < float(fit.objective) - rounding[-1]
    climbing = [int(below(fit).sum()) for fit in (found, plain)]
    assert abs(climbing[0] - climbing[1]) <= (1 if dtype == np.float64 else 4)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow
def test_a_fit_to_a_stream_is_the_fit(name, dtype):
    model, data = CASES[name](dtype)
    start = start_of(model, data, dtype)
    plain = jaxem.fit(model, start, data, max_steps=60)
    found = jaxem.fit_stream(model, start, data, max_steps=60, chunk_bytes=CHUNK)
    assert plain.status in USABLE
    same_fit(found, plain, np.size(jax.tree.leaves(data)[0]), dtype)


@pytest.mark.parametrize(
    "algorithm",
    [SQUAREM(), Anderson(), HardEM(), AnnealedEM(), SQUAREM(HardEM())],
    ids=lambda one: type(one).__name__,
)
@pytest.mark.slow
def test_algorithms_on_sums(algorithm):
    model, x = full(np.float64)
    start = model.init(jax.random.key(0), x)
    plain = jaxem.fit(model, start, x, algorithm=algorithm, max_steps=40)
    found = jaxem.fit_stream(model, start, x, algorithm=algorithm, max_steps=40, chunk_bytes=CHUNK)
    same_fit(found, plain, x.size, np.float64, 1e4)


@pytest.mark.parametrize("name", ["own", "bounded"])
@pytest.mark.slow
def test_own_functions_over_devices_in_memory(name, dtype):
    """A user's functions take the parts of sharded data, as they take chunks."""
    model, data = CASES[name](dtype)
    start = start_of(model, data, dtype)
    plain, found = (jaxem.fit(model, start, each, max_steps=60) for each in (data, jaxem.shard(data)))
    same_fit(found, plain, N, dtype)


@pytest.mark.parametrize("name", ["full", "ragged chain", "bounded"])
@pytest.mark.slow
def test_over_two_devices(name):
    model, data = CASES[name](np.float64)
    start, mesh = start_of(model, data, np.float64), Mesh(np.array(jax.devices()), ("rows",))
    plain = jaxem.fit(model, start, data, max_steps=20)
    found = jaxem.fit_stream(model, start, data, max_steps=20, chunk_bytes=CHUNK, mesh=mesh)
    same_fit(found, plain, np.size(jax.tree.leaves(data)[0]), np.float64)
    assert len(jax.tree.leaves(found.params)[0].devices()) == 2


class Slices:
    """What zarr and HDF5 arrays have in common."""

    def __init__(self, array):
        self._array, self.shape, self.dtype = array, array.shape, array.dtype

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        return self._array[rows]


def sources(x, folder):
    np.save(folder / "x.npy", x)
    np.save(folder / "swapped.npy", x.astype(x.dtype.newbyteorder()))
    np.save(folder / "columns.npy", np.asfortranarray(x))
    np.save(folder / "longer.npy", np.concatenate([x[:7], x]))
    frame = pd.DataFrame(x, columns=["a", "b", "c"])
    table = pa.Table.from_pandas(frame)
    pa.parquet.write_table(table, folder / "x.parquet", row_group_size=300)
    pa.dataset.write_dataset(table, folder / "parts", format="parquet", max_rows_per_file=400, max_rows_per_group=400)
    pa.feather.write_feather(table, folder / "x.feather")
    parts = [jaxem.dataset(part) for part in np.array_split(x, 3)]
    cuts = [0, 0, 5, 300, 301, 800, N]
    return {
        "path": str(folder / "x.npy"),
        "memory map": np.load(folder / "x.npy", mmap_mode="r"),
        "part of a map": np.load(folder / "longer.npy", mmap_mode="r+")[7:],
        "map that is copied on write": np.load(folder / "x.npy", mmap_mode="c"),
        "columns one by one": folder / "columns.npy",
        "other byte order": folder / "swapped.npy",
        "slices": Slices(x),
        "array of jax": jnp.asarray(x),
        "parquet": folder / "x.parquet",
        "feather": str(folder / "x.feather"),
        "arrow table": table,
        "data set of files": pa.dataset.dataset(folder / "parts"),
        "parquet file": pa.parquet.ParquetFile(folder / "x.parquet"),
        "unequal chunks": lambda: (x[a:b] for a, b in itertools.pairwise(cuts)),
        "data frames": lambda: iter([frame[:300], frame[300:]]),
        "data sets": lambda: parts,
        "one frame": frame,
    }


@pytest.mark.slow
def test_every_kind_of_source_gives_the_same_fit(tmp_path):
    model, x = full(np.float64)
    start = model.init(jax.random.key(0), x)
    traces = {
        name: np.asarray(jaxem.fit_stream(model, start, source, max_steps=3, tol=0.0, chunk_bytes=CHUNK).trace).tolist()
        for name, source in sources(x, tmp_path).items()
    }
    wanted = traces["path"]
    assert {name: trace for name, trace in traces.items() if trace != wanted} == {}
    plain = jaxem.fit(model, start, x, max_steps=3, tol=0.0)
    assert_within(wanted, plain.trace, 64 * eps("float64") * (np.abs(np.asarray(plain.trace)) + x.size))


@pytest.mark.slow
def test_parts_of_a_data_set_come_from_files(tmp_path):
    model, data = weighted(np.float64)
    np.save(tmp_path / "x.npy", data.values)
    np.save(tmp_path / "w.npy", data.weights.astype(np.float32))
    start = model.init(jax.random.key(0), data)
    plain = jaxem.fit(model, start, data, max_steps=10)
    from_files = Dataset(tmp_path / "x.npy", weights=str(tmp_path / "w.npy"))
    chunks = lambda: (
        Dataset(data.values[a : a + 90], weights=data.weights[a : a + 90].astype(int)) for a in range(0, N, 90)
    )
    for source in (from_files, chunks):
        same_fit(
            jaxem.fit_stream(model, start, source, max_steps=10, chunk_bytes=CHUNK), plain, data.values.size, np.float64
        )


@pytest.mark.slow
def test_whole_numbers_and_short_floats_are_widened():
    rng = np.random.default_rng(4)
    model, x = Mixture(Poisson(), 2), rng.poisson(rng.choice([2, 30], 500))
    start = model.init(jax.random.key(0), x)
    plain = jaxem.fit(model, start, x, max_steps=10)
    for dtype in (np.uint8, np.int32, np.uint64):
        found = jaxem.fit_stream(model, start, x.astype(dtype), max_steps=10, chunk_bytes=CHUNK)
        same_fit(found, plain, x.size, np.float64)
    model, x = Mixture(Normal(), 2), x.astype(np.float16)
    found = jaxem.fit_stream(model, start_of(model, x, np.float32), x, max_steps=10, chunk_bytes=CHUNK)
    same_fit(found, jaxem.fit(model, start_of(model, x, np.float32), x, max_steps=10), x.size, np.float32)


@pytest.mark.slow
def test_equal_shapes_compile_nothing(count_compilations):
    model, x = full(np.float64)
    start = model.init(jax.random.key(0), x)
    run = lambda source, tol: jaxem.fit_stream(model, start, source, tol=tol, max_steps=20, chunk_bytes=CHUNK)
    first = run(x, 1e-10)
    with count_compilations() as compiled:
        second = run(Slices(x + 1), 1e-9)
        run(np.concatenate([x[:-1]] * 2), 1e-9)  # twice as many chunks of the same length
    assert not compiled.names
    assert not np.array_equal(first.params.components.means, second.params.components.means)


# What is refused, and what is wrong with a source


def test_other_algorithms_say_why_not():
    model, x = full(np.float64)
    start = model.init(jax.random.key(0), x)
    for algorithm in (jaxem.GEM(), jaxem.IncrementalEM(), SQUAREM(jaxem.GEM())):
        with pytest.raises(ValueError, match=r"takes rows in an order .* with data read as a stream: use EM"):
            jaxem.fit_stream(model, start, x, algorithm=algorithm, key=jax.random.key(0))
    by_hand = Model(model.e_step, model.m_step)
    with pytest.raises(ValueError, match="EM on data that are read as a stream needs statistics and maximize"):
        jaxem.fit_stream(by_hand, start, x)


def spoiled(x, row, value):
    x = x.copy()
    x[row, 1] = value
    return x


def changing(*passes):
    """A source that yields other chunks in each pass; the first two passes are the look at it."""
    left = list(passes)
    return lambda: iter(left.pop(0) if len(left) > 1 else left[0])


X = mixture_data()
HALVES = [X[:500], X[500:]]

BAD = {
    "nan": (lambda: spoiled(X, 700, np.nan), r"1 entries are NaN.*rows \d+ to \d+ of the stream"),
    "infinite": (lambda: spoiled(X, 700, np.inf), r"finite numbers.*rows \d+ to \d+ of the stream"),
    "weights": (lambda: Dataset(X, weights=-np.ones(N)), "weights must be finite and not negative"),
    "no weight": (lambda: Dataset(X, weights=np.zeros(N)), "one of them above zero"),
    "columns": (lambda: np.ones((N, 2)), r"D = 2|2 columns|\(2,"),
    "text": (lambda: np.full((N, 3), "a"), "must be numbers; got texts"),
    "empty": (lambda: X[:0], "the source has no rows"),
    "nothing yielded": (lambda: lambda: iter(()), "the source has no rows"),
    "generator": (lambda: iter(HALVES), "can be read only once: pass the function"),
    "not iterable": (lambda: lambda: 3, "must yield chunks; it returns 3"),
    "one array": (lambda: lambda: X, "must yield chunks; it returns an array"),
    "file": (lambda: "x.txt", r"a file must be \.npy"),
    "other thing": (lambda: 3.0, "a source is a file, an array, or a function that yields chunks; got 3"),
    "unequal parts": (lambda: (X, X[:5]), "must share a leading axis"),
    "shape": (lambda: lambda: [X[:500], X[500:, :2]], r"chunk 1 .* rows of shape \(2,\); .* \(3,\)"),
    "dtype": (lambda: lambda: [X[:500], X[500:].astype(int)], "chunk 1 of the stream has dtype int64"),
    "structure": (lambda: lambda: [X[:500], (X[500:], X[500:])], "chunk 1 of the stream has other parts"),
    "fewer later": (lambda: changing(HALVES, HALVES, HALVES[:1]), "had 1003 rows in its first pass and has 500"),
    "more later": (lambda: changing(HALVES, HALVES, [X, X]), "had 1003 rows in its first pass and has more"),
    "more after full chunks": (lambda: changing([X[:840]], [X[:840]], [X[:841]]), "had 840 rows .* and has more"),
    "shape later": (lambda: changing(HALVES, HALVES, [X[:, :2]]), r"chunk 0 .* rows of shape \(2,\)"),
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_a_sentence(name):
    make, says = BAD[name]
    model = Mixture(MultivariateNormal(), 2)
    start = model.init(jax.random.key(0), X)
    with pytest.raises(ValueError, match=says) as caught:
        jaxem.fit_stream(model, start, make(), chunk_bytes=CHUNK)
    assert len(str(caught.value)) < 300 and "Xla" not in repr(caught.value)
    assert_nothing_is_left()


def assert_nothing_is_left():
    assert not streams._OPEN
    assert not [thread for thread in threading.enumerate() if thread.name == "jaxem stream"]


@pytest.mark.parametrize(
    "error",
    [OSError("the disk is gone"), KeyboardInterrupt(), ZeroDivisionError()],
    ids=lambda one: type(one).__name__,
)
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.slow
def test_an_exception_of_the_source_comes_out_unchanged(error, devices):
    model = Mixture(MultivariateNormal(), 2)
    start, passes = model.init(jax.random.key(0), X), []

    def chunks():
        passes.append(1)
        yield X[:500]
        if len(passes) > 5:
            raise error
        yield X[500:]

    mesh = Mesh(np.array(jax.devices()[:devices]), ("rows",)) if devices > 1 else None
    with pytest.raises(type(error)) as caught:
        jaxem.fit_stream(model, start, chunks, chunk_bytes=CHUNK, mesh=mesh, tol=0.0)
    assert caught.value is error
    assert len(passes) == 6
    assert_nothing_is_left()


CTRL_C = """
import os, signal, threading, time
import jax, numpy as np, jaxem
from jaxem.core import expectation, streams
from jaxem.core.data import size
from jaxem.families import Normal
from jaxem.models import Mixture

x, passes = np.random.default_rng(0).normal(size=1000), []
model = Mixture(Normal(), 2)
start = model.init(jax.random.key(0), x)

def chunks():
    passes.append(1)
    if len(passes) == 5:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        time.sleep(0.6)
    yield x

try:
    jaxem.fit_stream(model, start, chunks, stop=jaxem.fitting.parameter_change(0.0), max_steps=10**7)
except KeyboardInterrupt:
    print("interrupted", len(streams._OPEN), len(passes) < 10)
"""


@pytest.mark.slow
def test_ctrl_c_ends_a_fit():
    """In the main thread, where Python does not look at signals before the program has ended."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # one device
    command = [sys.executable, "-c", CTRL_C]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)
    assert done.stdout.split() == ["interrupted", "0", "True"], done.stderr


def test_a_file_that_is_cut_short_or_gone(tmp_path):
    model = Mixture(MultivariateNormal(), 2)
    start = model.init(jax.random.key(0), X)
    with pytest.raises(FileNotFoundError):
        jaxem.fit_stream(model, start, tmp_path / "none.npy")
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    with open(tmp_path / "x.npy", "r+b") as file:
        file.truncate(20_000)
    with pytest.raises(ValueError, match=r"x\.npy ends before its row 1002"):
        jaxem.fit_stream(model, start, mapped)


def test_bad_calls():
    model = Mixture(MultivariateNormal(), 2)
    start = model.init(jax.random.key(0), X)
    with pytest.raises(ValueError, match="chunk_bytes must be at least 1; it is 0"):
        jaxem.fit_stream(model, start, X, chunk_bytes=0)
    with pytest.raises(ValueError, match=r"mesh must be a jax\.sharding\.Mesh; got 2"):
        jaxem.fit_stream(model, start, X, mesh=2)
    with pytest.raises(ValueError, match="cannot run inside jit"):
        jax.jit(lambda start: jaxem.fit_stream(model, start, X).params)(start)
    with pytest.raises(ValueError, match="not spread over devices yet"):
        jaxem.fit_stream(model, start, jaxem.shard(X))
    with pytest.raises(ValueError, match="the start of weights must be"):
        jaxem.fit_stream(model, start._replace(weights=jnp.array([0.5, 0.6])), X)
    with pytest.raises(ValueError, match="1 observations cannot tell 2 classes apart"):
        jaxem.fit_stream(model, start, X[:1])


# Memory, and passes that are interrupted

MEMORY = """
import sys
from pathlib import Path
import jax, numpy as np, jaxem
from jaxem.core.sources import source_of
from jaxem.families import MultivariateNormal
from jaxem.models import Mixture

def resident(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(what))

model, folder, seen = Mixture(MultivariateNormal(), 2), Path(sys.argv[1]), []
start = model.init(jax.random.key(0), np.load(folder / "small.npy"))
for name in ("small", "large"):
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    # 2**14 rows of 16 numbers and a weight: both files are cut evenly, and so the large one compiles nothing.
    fit = jaxem.fit_stream(model, start, folder / f"{name}.npy", max_steps=2, tol=0.0, chunk_bytes=2**14 * 17 * 4)
    assert fit.steps == 2, fit
print(resident("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="resident memory is read as Linux shows it")
@pytest.mark.slow
def test_memory_is_that_of_a_few_chunks(tmp_path):
    x = np.random.default_rng(5).normal(size=(2**17, 16)).astype(np.float32)
    np.save(tmp_path / "small.npy", x[: 2**15])
    np.save(tmp_path / "large.npy", np.tile(x, (12, 1)))  # 96 MiB
    done = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 12 * 2**20


class Cursor:
    """Rows of an array, read into the first array of a chunk; every read is counted."""

    def __init__(self, x, row, reads):
        self.x, self.row, self.reads = x, row, reads

    def read(self, out):
        part = self.x[self.row : self.row + len(out[0])]
        out[0][: len(part)] = part
        self.row += len(part)
        self.reads.append(self.row)
        return len(part)

    def close(self):
        pass


def reader_of(x, rows, reads, cursor=Cursor, **hooks):
    layout = Layout(rows, -(-len(x) // rows), len(x), 1)
    buffers = lambda: [np.empty((rows, *x.shape[1:]), x.dtype), np.empty(rows, x.dtype)]
    return Reader(lambda row: cursor(x, row, reads), buffers, False, layout, **hooks)


def run(reader, program):
    """``program(data)`` of a stream that the reader hands out."""
    values, weights = reader._slots[0]
    template = streams.Template.of(Dataset(values, weights=weights))
    number = streams.publish(reader)
    data = streams.Streamed(jnp.int32(number), jnp.int32(reader.layout.chunks), jnp.float64(0), template, None)
    try:
        return jax.tree.map(np.asarray, jax.jit(program)(data))
    finally:
        streams.withdraw(number)


def test_sums_over_chunks_are_compensated():
    x = np.ones(100, np.float32)
    x[0] = 2.0**24  # the next number is two away
    total = run(reader_of(x, 1, []), lambda data: data.total(lambda _, part: part.values.sum(), ()))
    assert total == 2.0**24 + 100  # even, so that it is a float; one by one the ones are lost


def wait_for(condition):
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("waited in vain")


def test_one_chunk_is_read_ahead_and_no_more():
    x, reads = np.arange(12.0)[:, None], []
    reader = reader_of(x, 2, reads)
    try:
        reader.begin(0)
        for chunk in range(6):
            values, weights = reader.take(0, chunk)
            wait_for(lambda chunk=chunk: reader._filled == chunk + 2)  # the next one, without being asked for it
            time.sleep(0.02)
            assert reader._filled == chunk + 2
            np.testing.assert_array_equal(values, x[2 * chunk : 2 * chunk + 2])  # not overwritten meanwhile
            assert (weights == 1).all()
    finally:
        reader.close()


def test_passes_at_the_same_time_are_refused():
    reader = reader_of(np.arange(12.0)[:, None], 2, [])
    try:
        reader.begin(0)
        reader.take(0, 0)
        with pytest.raises(RuntimeError, match="began before the last one had ended"):
            reader.begin(0)
        with pytest.raises(RuntimeError, match="at the same time"):
            reader.take(0, 0)
    finally:
        reader.close()


def test_a_pass_that_fails_gives_nan_and_ends():
    x, reads = np.arange(40.0), []

    class Failing(Cursor):
        def read(self, out):
            if self.row == 6:
                raise OSError("the disk is gone")
            return super().read(out)

    reader = reader_of(x, 2, reads, Failing)
    found = run(reader, lambda data: data.total(lambda _, part: part.values.sum(), ()))
    assert np.isnan(found) and isinstance(reader.error, OSError)
    assert reader._places[0] in (3, 4)  # no chunk after the one that failed; it may fail before it is asked for


@pytest.mark.slow
def test_gradients_of_chunks_and_devices_add_up():
    model, data = own(np.float64)
    prior = lambda params: -(params[1] ** 2).sum()
    model = dataclasses.replace(model, log_prior=prior)
    params = start_of(model, data, np.float64)
    points = params, jax.tree.map(lambda leaf: 1.5 * leaf, params)
    wanted = expectation.slopes(model, points, data)
    streamed = run(reader_of(data.values, 101, []), lambda data: expectation.slopes(model, points, data))
    for found in (streamed, expectation.slopes(model, points, jaxem.shard(data))):
        jax.tree.map(lambda a, b: assert_within(a, b, 1e3 * eps("float64") * (1 + np.abs(b).max())), found, wanted)


@pytest.mark.slow
def test_no_pass_is_wasted():
    model, x = full(np.float64)
    start, calls = model.init(jax.random.key(0), x), []

    def chunks():
        calls.append(1)
        yield x

    assert jaxem.fit_stream(model, start, chunks, max_steps=4, tol=0.0).steps == 4
    assert len(calls) in (7, 8)  # the first chunk, the first look, the start and four steps; one may be read ahead


@pytest.mark.parametrize("name", CASES)
def test_values_are_counted_exactly(name):
    model, data = CASES[name](np.float64)
    params = start_of(model, data, np.float64)
    plan = first_look.plan(source_of(data))
    rows = np.shape(jax.tree.leaves(data)[0])[0]
    assert first_look.look(model, params, plan, 50) == (rows, float(size(data, jnp.float64)))


def test_missing_cells_are_counted_too():
    rng = np.random.default_rng(6)
    x, observed = rng.normal(size=(90, 4)), rng.random((90, 4)) > 0.3
    data = Dataset(x, observed=observed, weights=rng.integers(0, 3, 90).astype(float))
    model, params = own(np.float64)[0], start_of(own(np.float64)[0], None, np.float64)
    assert first_look.look(model, params, first_look.plan(source_of(data)), 20)[1] == float(size(data, jnp.float64))


def test_a_pass_can_begin_where_it_ended():
    """The two hooks of the reader, by which a fit may be taken up again within a pass."""
    x = np.arange(40.0).reshape(20, 2)

    def twice(data):
        first = data.total(lambda _, part: part.values.sum(axis=0), ())
        two = jnp.where(jnp.isfinite(first[0]), 2.0, 0.0)
        return first, data.total(lambda by, part: (part.values * by).sum(axis=0), two)

    kept, reads = {}, []
    keep = lambda device, number, chunk, sums: kept.__setitem__((number, chunk), sums)
    whole = run(reader_of(x, 4, reads, keep=keep), twice)
    np.testing.assert_array_equal(whole, [x.sum(axis=0), 2 * x.sum(axis=0)])
    assert sorted(kept) == [(number, chunk) for number in range(2) for chunk in range(5)]
    reads.clear()
    stored = [[Stored(5, kept[0, 4]), Stored(3, kept[1, 2])]]
    np.testing.assert_array_equal(run(reader_of(x, 4, reads, stored=stored), twice), whole)
    assert reads[0] == 16  # the first pass is not read, and the second from its fourth chunk on
