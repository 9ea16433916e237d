# %% [markdown]
# # Many data sets, long runs, several devices
#
# `jaxem.fit` works under `jax.jit`, `jax.vmap` and `jax.grad`. For many data sets, long runs and several devices there
# are functions that do more than a plain `vmap` or loop.
#
# ## Many data sets at once
#
# `fit_many` returns what `vmap(fit)` returns. Under `vmap` every fit is continued until the slowest has ended; `fit_many`
# ends each by itself. The example: how much do the estimated means vary between samples of 100 waiting times?

# %%
import tempfile
from pathlib import Path

import jax

import jaxem
from jaxem import datasets
from jaxem.families import MultivariateNormal, Normal
from jaxem.models import Mixture

eruptions = datasets.old_faithful()
waiting = eruptions[:, 1]
draws = jax.random.choice(jax.random.key(0), waiting, (50, 100))
model = Mixture(Normal(), k=2)
start = jaxem.check(jaxem.fit(model, model.init(jax.random.key(1), waiting), waiting)).params

fits = jaxem.fit_many(model, start, draws, params_axis=None)  # one start for all
assert fits.converged.all()
print("standard deviations of the means:", fits.params.components.means.std(axis=0))

# %% [markdown]
# `fits` is a `Fit` whose arrays have a leading axis: a status, an objective and parameters for each data set.
# `fit_many_restarts` runs several starts for each data set. The data sets may have different numbers of rows.

# %%
found = jaxem.fit_many_restarts(model, [waiting[:100], waiting[100:]], key=jax.random.key(2), restarts=3)
assert found.best.converged.all()
print(found.best.params.components.means)

# %% [markdown]
# ## Runs that take hours
#
# With `progress=True` a bar is drawn (extra `progress`). A function is called with a `jaxem.fitting.Report` instead:
# steps, objective, gain, what is left, E-steps and seconds.
#
# `checkpoint` names a file that is replaced about every `every` seconds. After Ctrl-C the fit so far is returned, with the
# status `INTERRUPTED`. `jaxem.resume` continues from the file, in this process or another, and ends with exactly the
# numbers of a run that was not interrupted. It refuses a damaged file, another model, other data or another dtype, and
# says what differs. What a file cannot hold, such as an optax optimiser, is passed to it again. `fit_many`,
# `fit_restarts`, `fit_many_restarts` and `fit_stream` have the same options.

# %%
pair = Mixture(MultivariateNormal(), k=2)
begin = pair.init(jax.random.key(0), eruptions)
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "old_faithful.run"
    fit = jaxem.fit(pair, begin, eruptions, progress=print, checkpoint=path, every=60.0)
    again = jaxem.resume(path, pair, eruptions)
assert fit.converged and again.objective == fit.objective

# %% [markdown]
# ## Several devices
#
# `jaxem.shard` spreads the rows over all devices, or over those of a mesh. Each device sums over its own rows, and only the
# sums for the M-step pass between devices. With several processes (`jax.distributed.initialize`) each process gives its
# own rows and runs the same code. `EM`, `HardEM`, `AnnealedEM` and accelerators of them work on such data. Other algorithms
# raise an error that says why not.

# %%
spread = jaxem.check(jaxem.fit(pair, begin, jaxem.shard(eruptions)))
assert abs(spread.objective - fit.objective) < 1e-5 * abs(fit.objective)
print(f"over {jax.device_count()} device(s): {spread.objective:.4f}")
