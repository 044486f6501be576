"""A profile as one HTML file: `page` fills the templates; charts and the drawn graph are SVG."""
