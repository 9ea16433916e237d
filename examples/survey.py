"""Classes of voters in a survey with columns of several kinds and unanswered questions: the election of 2000.

Each column has a distribution of its own kind in each class: twelve yes-or-no answers (does a trait describe Gore, or
Bush, well?), the intended vote, the years of schooling by seven levels, and age. Six per cent of the answers about
traits are missing and a third of the votes; every row is used as far as it was answered. BIC chooses the number of
classes, and a profile shows what they are.

Source: American National Election Studies (2000), as analysed by Linzer & Lewis (2011) with R's poLCA, which finds
supporters of either candidate and neutral voters in rows without missing answers. Their log-likelihood of three classes
of the twelve traits with four levels each, -16714.66, is one of the tests of jaxem.
"""

from collections.abc import Sequence

import jax
import pandas as pd
from _report import heading, output_folder, require

import jaxem
from jaxem import datasets
from jaxem.families import Bernoulli, Categorical, Normal, Product
from jaxem.models import Mixture

VOTES = ["Gore", "Bush", "other"]


def main(arguments: Sequence[str] | None = None) -> None:
    folder = output_folder(arguments, __doc__)
    jax.config.update("jax_enable_x64", True)
    frame = pd.DataFrame(datasets.election()).rename(columns={"vote3": "vote", "educ": "schooling"})
    traits = frame.columns[:12]  # levels 1 and 2 of 4 say that it describes him extremely or quite well
    parts = {
        "traits": (frame[traits] <= 2).astype(float).where(frame[traits].notna()),
        "vote": frame["vote"].map(dict(enumerate(VOTES, 1))).astype(pd.CategoricalDtype(VOTES)),
        "schooling": frame["schooling"].astype("Int64").astype("category"),
        "age": frame["age"],
    }
    data = jaxem.dataset(parts, missing="nan")
    family = Product(
        {"traits": Bernoulli(), "vote": Categorical((3,)), "schooling": Categorical((7,)), "age": Normal()}
    )

    heading("How many classes")
    table = jaxem.select([Mixture(family, k) for k in range(5, 8)], data, key=jax.random.key(0), restarts=30)
    print(table)

    heading("What they are")
    best = table.best
    params = jaxem.inference.canonical(best.model, best.fit.params)
    profile = jaxem.inference.profile(best.model, params, data)
    print(profile)
    require(best.model.k == 6, "BIC chooses six classes")

    heading("Picture")
    jaxem.plot.profile(profile).figure.savefig(folder / "survey.png")
    print(folder / "survey.png")


if __name__ == "__main__":
    main()
