"""A profile as one HTML file: `page` fills the templates; the charts and the drawn graph are SVG.

May import from `tools.profiling` the document, the comparison, and how figures are written.
"""
