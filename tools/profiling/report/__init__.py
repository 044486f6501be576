"""A profile as one HTML file: `page` fills the templates; charts, the drawn graph and the flame graph are SVG."""
