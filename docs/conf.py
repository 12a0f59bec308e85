"""How tools/docs builds the site from the pages beside this file. Nothing on the built pages is fetched from elsewhere."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_extension")]

import edgekit  # noqa: E402

project = "edgekit"
author = "the edgekit authors"
copyright = "the edgekit authors, Apache-2.0"  # noqa: A001
release = version = edgekit.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "reference"]
exclude_patterns = ["_extension"]
nitpicky = True
# Nothing is asked of the network, so names of other projects (Path, DataFrame) lead nowhere; edgekit's own have to,
# but for those that are not public.
nitpick_ignore = [
    ("py:class", f"edgekit.{name}") for name in ("noise.Noise", "store.Run", "store.Stored", "types.TensorSpec")
]
nitpick_ignore_regex = [("py:.*", r"(?!edgekit\b).*")]
highlight_language = "none"
smartquotes = False  # options begin with two hyphens
default_role = "code"
myst_heading_anchors = 4

python_use_unqualified_type_names = True
maximum_signature_line_length = 80
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = f"edgekit {release}"
html_copy_source = False
html_show_sourcelink = False
html_show_search_summary = False  # it fetches pages, which a browser refuses to a site on a disk
html_theme_options = {"navigation_with_keys": True}
