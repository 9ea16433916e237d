"""Sphinx configuration; ``build.py`` writes the sources and calls Sphinx."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import jaxem

project = "jaxem"
author = "the authors of jaxem"
copyright = author
version = release = jaxem.__version__
language = "en_GB"

extensions = ["myst_parser", "extensions"]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nitpicky = True  # a reference that leads nowhere is a warning, and warnings are errors

add_module_names = False
toc_object_entries_show_parents = "hide"
python_maximum_signature_line_length = 88
python_display_short_literal_types = True

html_theme = "furo"
html_title = f"jaxem {version}"
html_math_renderer = "mathml"  # by the browser itself: no script, no font and no network
html_static_path = [str(Path(__file__).parent / "static")]
html_css_files = ["jaxem.css"]
html_show_sourcelink = False
html_copy_source = False
pygments_style = "friendly"
pygments_dark_style = "monokai"
