"""A profile as one HTML file: `page` fills the templates; the charts and the drawn graph are SVG.

May import the document of a profile and how its figures are written, from `tools.profiling`.
"""
