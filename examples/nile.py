"""The yearly flow of the Nile as a level that moves at random, seen with noise; then with 40 of its 100 years cut out.

The smoothed level shows the fall of about 1899, when the first dam at Aswan was built. Where years are missing the
level is still known, with a wider band, and so is its future.

Source: Durbin & Koopman (2012), chapter 2, whose variances are 15,099 and 1,469.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from _report import compare, heading, output_folder

import jaxem
from jaxem import datasets
from jaxem.models import local_level


def main(arguments: Sequence[str] | None = None) -> None:
    folder = output_folder(arguments, __doc__)
    jax.config.update("jax_enable_x64", True)
    years, flow = datasets.nile()
    model, figure = local_level(), plt.figure(figsize=(9, 6), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    cut = np.isin(np.arange(100), [*range(20, 40), *range(60, 80)])
    for panel, title, series in (
        (panels[0], "All years", flow),
        (panels[1], "40 years cut out", np.where(cut, np.nan, flow)),
    ):
        data = jaxem.dataset(series[None, :, None], missing="nan")
        start = model.init(jax.random.key(0), data)
        fit = jaxem.check(jaxem.fit(model, start, data, algorithm=jaxem.SQUAREM(), tol=1e-9))
        heading(title)
        print(f"log-likelihood {fit.objective:.4f}, {fit.steps} iterations")
        print(jaxem.inference.summary(model, fit.params, data))
        if title == "All years":
            variances = ("noise", "15099", float(fit.params.noise[0])), ("level", "1469", float(fit.params.process[0]))
            compare("Durbin & Koopman", variances)
        _draw(panel, title, model, fit.params, data, years, series)
    figure.savefig(folder / "nile.png")
    print(folder / "nile.png")


def _draw(panel: plt.Axes, title: str, model: jaxem.Model, params, data, years, series) -> None:
    """The level with a band of 90 per cent, and a forecast of 10 years."""
    q, ahead = model.smooth(params, data), model.forecast(params, data, 10)
    later = years[-1] + np.arange(1, 11)
    for x, mean, variance, name in (
        (years, q.means[0, :, 0], q.covariances[0, :, 0, 0], "level"),
        (later, ahead.means[0, :, 0], ahead.covariances[0, :, 0, 0], "forecast"),
    ):
        half = 1.645 * jnp.sqrt(variance)
        (line,) = panel.plot(x, mean, label=f"{name}, 90 %")
        panel.fill_between(x, mean - half, mean + half, color=line.get_color(), alpha=0.25)
    panel.plot(years, series, "k.", markersize=4)
    panel.set(title=title, ylabel="flow, $10^8$ m$^3$")
    panel.legend(loc="upper right")


if __name__ == "__main__":
    main()
