"""Sphinx reads this; docs/site/build.py gathers the pages first and names this directory."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

project = "ckptkit"
author = "the authors of ckptkit"
copyright = f"{author}; Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
html_theme = "furo"
html_title = "ckptkit"
html_show_sphinx = False
html_copy_source = False
html_domain_indices = False
html_use_index = False
html_theme_options = {"navigation_with_keys": True}
copybutton_prompt_text = "$ "

myst_heading_anchors = 4
myst_enable_extensions = ["attrs_inline", "colon_fence"]
myst_links_external_new_tab = False

napoleon_google_docstring = True
napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
nitpicky = False
# Sessions are shown as they are; no lexer has a say in what a command may print.
highlight_language = "text"
suppress_warnings = ["misc.highlighting_failure", "myst.header"]  # levels that are left out
