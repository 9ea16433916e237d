"""Pictures: data with what a model says of them, how a fit went, and whether the model is right.

They need the extra ``plot`` (matplotlib).

Every function draws on ``ax``, or on a new figure by default, and returns the axes; save with
``ax.figure.savefig("name.png")``. ``pairs`` alone has several panels: its ``ax`` is an array of axes, and so is what it
returns. No display is needed, and no global setting of matplotlib is changed. Classes differ in colour (distinguishable
with every kind of colour vision) and in line, marker or hatching, so that a picture can be printed in grey.

================================  ===============================================================
a fit                             ``trace``, ``convergence``, ``bound``
which model                       ``selection``
a mixture                         ``mixture``, ``pairs``, ``profile``
which class                       ``responsibilities``, ``certainty``, ``separation``
states in time                    ``path``, ``states``, ``transitions``, ``smoothed``
a test                            ``item_curves``, ``item_information``, ``abilities``
whether the model is right        ``residuals``, ``pp``, ``qq``
parameters                        ``intervals``
================================  ===============================================================
"""

from jaxem.plot.bounds import bound as bound
from jaxem.plot.chains import path as path
from jaxem.plot.chains import states as states
from jaxem.plot.intervals import intervals as intervals
from jaxem.plot.item_response import abilities as abilities
from jaxem.plot.item_response import item_curves as item_curves
from jaxem.plot.item_response import item_information as item_information
from jaxem.plot.mixtures import mixture as mixture
from jaxem.plot.pairs import pairs as pairs
from jaxem.plot.profiles import profile as profile
from jaxem.plot.residuals import pp as pp
from jaxem.plot.residuals import qq as qq
from jaxem.plot.residuals import residuals as residuals
from jaxem.plot.responsibilities import certainty as certainty
from jaxem.plot.responsibilities import responsibilities as responsibilities
from jaxem.plot.responsibilities import separation as separation
from jaxem.plot.selection import selection as selection
from jaxem.plot.state_space import smoothed as smoothed
from jaxem.plot.style import COLOURS as COLOURS
from jaxem.plot.traces import convergence as convergence
from jaxem.plot.traces import trace as trace
from jaxem.plot.transitions import transitions as transitions
