# %% [markdown]
# # How do I keep a fit, and serve it?
#
# `jaxem.save` writes a model and its fit to one file, and `jaxem.load` returns both with exactly the same numbers. The file
# holds numbers and a description, no pickle and no code, so that loading a file from a stranger runs nothing.
# `jaxem.export` writes one function as a compiled artefact, for a server that has JAX but not jaxem.

# %%
import subprocess
import sys

import jax
import numpy as np
from jax import export

import jaxem
from jaxem import datasets
from jaxem.families import MultivariateNormal
from jaxem.models import Mixture

jax.config.update("jax_enable_x64", True)
x = datasets.old_faithful()
model = Mixture(MultivariateNormal(), k=2)
fit = jaxem.check(jaxem.fit(model, model.init(jax.random.key(0), x), x))

# %% [markdown]
# ## Save and load
#
# The file has a card that describes it. If you pass the data, the card has their shapes, names and a fingerprint, but no
# values.

# %%
jaxem.save("eruptions.jaxem", model, fit, x, notes="Old Faithful, August 1985")
saved = jaxem.load("eruptions.jaxem")
assert saved.model == model and np.array_equal(saved.fit.params.components.means, fit.params.components.means)
assert np.array_equal(saved.model.predict(saved.fit, x), model.predict(fit, x))
print(saved.card)

# %% [markdown]
# `python -m jaxem show eruptions.jaxem` prints the same card in a shell.
#
# A loaded fit is used like any other: `jaxem.summary(saved.model, saved.fit, x)` has standard errors, and
# `jaxem.fit(saved.model, saved.fit, new)` starts from it. Functions of your own (`jaxem.Model`, `from_log_joint`) are not
# in the file: give the model to `load` again, which checks that its code has not changed. To continue a fit that was
# interrupted, use a checkpoint: [Many data sets, long runs, several devices](many_long_devices.py).
#
# ## Serve
#
# The artefact takes any number of rows; `like` gives their shape and dtype.

# %%
artefact = jaxem.export(model, fit, "predict_proba", "eruptions.bin", like=x)
serve = """
import sys, jax, numpy as np
from jax import export
jax.config.update("jax_enable_x64", True)  # the artefact computes in 64 bits, like the fit
call = export.deserialize(open("eruptions.bin", "rb").read()).call
print(np.round(call(np.array([[2.0, 55.0], [4.5, 80.0], [3.0, 68.0]])), 3))
assert "jaxem" not in sys.modules
"""
print(subprocess.run([sys.executable, "-c", serve], capture_output=True, text=True, check=True).stdout)
assert np.allclose(artefact.call(x[:7]), model.predict_proba(fit, x[:7]), atol=1e-12)
assert np.allclose(export.deserialize(artefact.serialize()).call(x), model.predict_proba(fit, x), atol=1e-12)

# %% [markdown]
# * Other functions are `"predict"`, `"log_prob"`, and for sequences `"filter"`, `"smooth"` and `"forecast"`.
# * `platforms=("cpu", "cuda")` compiles for other devices.
# * For inputs with missing cells make `like` a data set with gaps. NaN then means a gap in every input.
# * The artefact does not check its input. Where jaxem would refuse a value with a message, the answer is NaN.
