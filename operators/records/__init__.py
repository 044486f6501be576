"""What results look like in files and in messages, and how to read them back: see `docs/schema.md`."""
