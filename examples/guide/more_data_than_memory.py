# %% [markdown]
# # More data than memory
#
# The M-step needs only sums over the rows. `jaxem.fit_stream` therefore reads the data in chunks, once for each E-step, and
# finds the fit that `jaxem.fit` would find. A thread reads the next chunk during the computation.
#
# A file of 40,000 numbers stands in for one that does not fit into memory.

# %%
import tempfile
from pathlib import Path

import jax
import numpy as np

import jaxem
from jaxem import datasets
from jaxem.families import Normal
from jaxem.models import Mixture

jax.config.update("jax_enable_x64", True)
model = Mixture(Normal(), k=2)
small = datasets.old_faithful()[:, 1]  # minutes to the next eruption
known = jaxem.fit(model, model.init(jax.random.key(0), small), small)

folder = Path(tempfile.mkdtemp())
rows = np.asarray(model.sample(jax.random.key(1), known, 40_000))
np.save(folder / "rows.npy", rows)

# %% [markdown]
# ## A start, then the stream
#
# The start is made from a sample of the rows that fits into memory.

# %%
start = model.init(jax.random.key(2), rows[:2000])
fit = jaxem.check(jaxem.fit_stream(model, start, folder / "rows.npy", chunk_bytes=2**16))
whole = jaxem.fit(model, start, rows)
print(f"log-likelihood {fit.objective:.4f} from chunks of 64 KiB, {whole.objective:.4f} in memory; {fit.steps} steps")
assert abs(float(fit.objective - whole.objective)) < 1e-6 and fit.steps == whole.steps

# %% [markdown]
# ## What can be a source
#
# * a `.npy` file or a `numpy.memmap`; any object with `shape`, `dtype` and slices of rows (zarr, HDF5);
# * a `.parquet`, `.arrow` or `.feather` file (extra `parquet`);
# * a function without arguments that yields chunks, called once for each pass. Chunks may be dicts, data frames, or a
#   `jaxem.dataset` with weights and gaps.

# %%


def chunks():
    for file in (folder / "rows.npy",):  # one file after the other
        yield from np.array_split(np.load(file, mmap_mode="r"), 7)


again = jaxem.fit_stream(model, start, chunks, chunk_bytes=2**16)
assert abs(float(again.objective - fit.objective)) < 1e-6

# %% [markdown]
# ## A run that takes hours
#
# With `checkpoint=` the run is saved every minute (here, with `every=0`, after each piece). After the process was killed,
# `jaxem.resume` continues from the last save and ends with exactly the same numbers. `progress=True` draws a bar.

# %%
path = folder / "run"
watched = jaxem.fit_stream(model, start, folder / "rows.npy", chunk_bytes=2**16, checkpoint=path, every=0)
resumed = jaxem.resume(path, model, folder / "rows.npy")
assert resumed.objective == watched.objective
print("resumed:", jaxem.Status(int(resumed.status)).name)

# %% [markdown]
# ## Data that fit into memory
#
# `EM()` works in blocks of rows, so that its intermediate arrays stay small. You need no stream for them. Several devices
# share the rows by `jaxem.shard` (or `mesh=` of `fit_stream`).
#
# ## When each pass is expensive
#
# EM takes one M-step in each pass over the data. `OnlineEM` takes one after each batch, and is often near the optimum
# after a pass or two. It draws rows in random order, from an array in memory or a `numpy.memmap`. See
# `examples/online.py`.

# %%
online = jaxem.OnlineEM(batch_size=1000)
near = jaxem.fit(model, start, rows, algorithm=online, max_steps=2, key=jax.random.key(3))
left = float(fit.objective - model.log_likelihood(near, rows)) / len(rows)
print(f"after 2 passes of OnlineEM the log-likelihood per row is {left:.1e} below the maximum")
assert 0 < left < 1e-2
