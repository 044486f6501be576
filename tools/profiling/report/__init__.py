"""A profile as one HTML file: `html` puts together sections, charts, the drawn graph and the flame graph."""
