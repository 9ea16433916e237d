"""Missing cells: rows that are only partly observed are used, not dropped.

New York's air in the summer of 1973: 42 of 153 days lack the ozone, the radiation, or both. Dropping those days throws
away their wind and temperature. EM keeps them: the missing cells are hidden variables, and each is counted by its mean
and variance given the cells that were seen. The log-likelihood and the standard errors are those of R's lavaan
(-1896.171507, by direct maximisation).

The second part hides a fifth of the cells of Fisher's irises; the third hides cells and whole steps of two sequences.

Source: Dempster, Laird & Rubin (1977), section 4.1; Little & Rubin (2019), chapter 11.
"""

from collections.abc import Sequence

import jax
import numpy as np
from _report import heading, output_folder, require

import jaxem
from jaxem import datasets
from jaxem.families import MultivariateNormal
from jaxem.models import HMM, Mixture

OZONE, RADIATION, WIND, TEMPERATURE = range(4)


def main(arguments: Sequence[str] | None = None) -> None:
    output_folder(arguments, __doc__)
    jax.config.update("jax_enable_x64", True)
    air(), irises(), sequences()


def hidden(x: np.ndarray, share: float = 0.2) -> np.ndarray:
    return np.where(np.random.default_rng(0).random(x.shape) < share, np.nan, x)


def air() -> None:
    x = datasets.airquality()
    x[:, OZONE] = np.log(x[:, OZONE])
    model, data = Mixture(MultivariateNormal(), k=1), jaxem.dataset(x, missing="nan")
    fit = jaxem.check(jaxem.fit(model, model.init(jax.random.key(0), data), data))
    whole = x[~np.isnan(x).any(axis=1)]
    alone = jaxem.check(jaxem.fit(model, model.init(jax.random.key(0), whole), whole))
    error_of = lambda fit, data: jaxem.inference.standard_errors(model, fit, data).components.means[0]
    errors = error_of(fit, data), error_of(alone, whole)

    heading("Means of log ozone, radiation, wind and temperature, with standard errors")
    for name, found, error in (("all 153 days ", fit, errors[0]), ("111 whole days", alone, errors[1])):
        print(name, *(f"{m:9.3f} ({e:.3f})" for m, e in zip(found.params.components.means[0], error, strict=True)))
    print(f"log-likelihood {float(fit.objective):.6f}")
    filled = np.asarray(jaxem.impute(model, fit, data))
    print(f"day 5, ozone not measured: {np.exp(filled[4, OZONE]):.1f} ppb expected")
    require(bool((errors[0] < errors[1]).all()), "the incomplete days make every mean more precise")


def irises() -> None:
    x, species = datasets.iris()
    model, data = Mixture(MultivariateNormal(), k=3), jaxem.dataset(hidden(x), missing="nan")
    fit = jaxem.check(jaxem.fit(model, model.init(jax.random.key(0), data, start=species), data))
    right = float((model.predict(fit, data) == species).mean())
    away = np.abs(np.asarray(jaxem.impute(model, fit, data)) - x)[~np.asarray(data.observed)].mean()
    heading("Irises with a fifth of the cells hidden")
    print(f"{100 * right:.0f} % of the species found; a hidden cell is off by {away:.2f} cm on average")
    require(right > 0.9, "the species are found although a fifth is hidden")


def sequences() -> None:
    rng = np.random.default_rng(1)
    states = (rng.random((4, 100)) < 0.1).cumsum(axis=1) % 2
    x = hidden(rng.normal(size=(4, 100, 2)) + 3.0 * states[:, :, None])
    x[:, 40:45] = np.nan  # steps at which nothing was seen
    model, data = HMM(MultivariateNormal(), k=2), jaxem.dataset(x, missing="nan")
    fit = jaxem.check(jaxem.fit(model, model.init(jax.random.key(0), data), data))
    path = np.asarray(model.predict(fit, data))
    right = max(float((path == states).mean()), float((path != states).mean()))
    heading("A hidden Markov model of two columns, with gaps")
    print(f"{100 * right:.0f} % of the states found, those of unseen steps among them")
    require(right > 0.9, "the path is found through the gaps")


if __name__ == "__main__":
    main()
