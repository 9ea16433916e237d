"""Files: models and fits that are saved and loaded, and compiled functions that run without jaxem."""

from typing import TYPE_CHECKING

from jaxem.core.on_demand import on_demand

if TYPE_CHECKING:
    from jaxem.files.card import Card as Card
    from jaxem.files.exporting import export as export
    from jaxem.files.saving import Saved as Saved
    from jaxem.files.saving import load as load
    from jaxem.files.saving import save as save
    from jaxem.files.show import show as show

on_demand()
