"""What is noted while a profiled run is at work (`recorder`), and made of it (`recorded`, `trace`)."""
