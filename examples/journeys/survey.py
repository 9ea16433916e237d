"""A survey in a data frame: columns of several kinds, gaps and weights. How many kinds of voter are there, and who?

The answers are those of the American National Election Study of 2000. The weights of this script are invented, to show
where they go: voters under 30 count one and a half times.
"""

import argparse
from pathlib import Path

import jax
import numpy as np
import pandas as pd

import jaxem
from jaxem import datasets
from jaxem.families import Bernoulli, Categorical, Normal, Product
from jaxem.models import Mixture

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--output", type=Path, default=Path("output"))
output = parser.parse_args().output
output.mkdir(parents=True, exist_ok=True)
jax.config.update("jax_enable_x64", True)

table = pd.DataFrame(datasets.election())
traits = table.columns[:6]  # of Gore: 1 and 2 of 4 say that a trait describes him well
frame = pd.DataFrame({name: (table[name] <= 2).astype(float).where(table[name].notna()) for name in traits})
frame["vote"] = table["vote3"].map({1: "Gore", 2: "Bush", 3: "other"})  # text, which jaxem.dataset codes
frame["age"] = table["age"]
frame.index = [f"voter {i}" for i in range(len(frame))]
weights = np.where(frame["age"] < 30, 1.5, 1.0)

parts = {"traits": frame[traits], "vote": frame[["vote"]], "age": frame["age"]}
data = jaxem.dataset(parts, weights=weights, missing="nan")
family = Product({"traits": Bernoulli(), "vote": Categorical((3,)), "age": Normal()})

models = [Mixture(family, k) for k in (1, 2, 3, 4)]
table = jaxem.select(models, data, key=jax.random.key(0), restarts=5)
print(table)
best = table.best

profile = jaxem.inference.profile(best.model, best.fit, data)
print(profile)
print(profile.to_frame().head())
print(jaxem.classes(best.model, best.fit, data).to_frame().head())

jaxem.plot.profile(profile).figure.savefig(output / "survey_profile.png")
print(output / "survey_profile.png")
