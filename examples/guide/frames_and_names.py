# %% [markdown]
# # My data are a data frame with names and categories
#
# Give the frame itself: pandas, polars, pyarrow, or what else narwhals reads. The names of columns, the levels of
# categories and the index go in with the data and come back in every result.
#
# The example is the American National Election Study of 2000: how well three traits describe Gore, for whom a person
# voted, and the person's age.

# %%
import jax
import numpy as np
import pandas as pd

import jaxem
from jaxem import datasets
from jaxem.families import Categorical, Normal, Product
from jaxem.models import Mixture

jax.config.update("jax_enable_x64", True)
raw = pd.DataFrame(datasets.election()).dropna()
traits = list(raw)[:3]
answers = pd.CategoricalDtype(["extremely", "quite", "not too", "not at all"])
frame = pd.DataFrame(
    {
        **{name: raw[name].map(dict(enumerate(answers.categories, 1))).astype(answers) for name in traits},
        "vote": raw["vote3"].map({1: "Gore", 2: "Bush", 3: "other"}),
        "age": raw["age"],
    }
)
frame.index = [f"voter {i}" for i in range(len(frame))]
print(frame.head(3))

# %% [markdown]
# ## Names in, names out
#
# `Product` takes the data in parts, by name, and models each part by a family of its own: here categories and a number.
# Categories are coded 0, 1, ... in the order that their dtype declares, text in sorted order.

# %%
parts = lambda frame: {"opinion": frame[[*traits, "vote"]], "age": frame["age"]}
data = jaxem.dataset(parts(frame))
print(data.columns("values.opinion").levels)
model = Mixture(Product({"opinion": Categorical((4, 4, 4, 3)), "age": Normal()}), k=2)
fit = jaxem.check(jaxem.fit(model, model.init(jax.random.key(0), data), data))
profile = jaxem.inference.profile(model, fit, data)
print(profile)
assert "Gore" in str(profile) and "not at all" in str(profile)

# %% [markdown]
# Every table has `to_frame()`, which makes a frame of the library that the data came from. Results for rows keep the
# index.

# %%
classes = jaxem.classes(model, fit, data).to_frame()
print(classes.head(3))
assert isinstance(classes, pd.DataFrame) and list(classes.index[:2]) == ["voter 0", "voter 1"]

# %% [markdown]
# ## New data
#
# The fit remembers its columns. A new frame may have them in another order, and further columns. Categories get the codes
# that they had in the fit, and an unknown category is refused by name.

# %%
new = frame.sample(5, random_state=0)[["age", "vote", *reversed(traits)]].assign(remark="")
same = [int(name.split()[1]) for name in new.index]
assert np.allclose(model.predict_proba(fit, parts(new)), model.predict_proba(fit, data)[np.array(same)])
try:
    model.predict(fit, parts(new.assign(vote="Nader")))
except ValueError as error:
    print(error)
    assert "Nader" in str(error)

# %% [markdown]
# ## A formula instead
#
# `jaxem.formula("y ~ x + spline(age) | party", frame)` makes the response, its covariates and the covariates of the class
# (after `|`) from one frame, and keeps the terms for new data (extra `formula`).
#
# Pass the `Fit` to functions that take new frames, not `fit.params`: parameters alone have no names or levels, so that
# categories are refused.
