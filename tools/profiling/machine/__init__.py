"""The machine in a profile: its hardware, and how much of it was used. Imports the document only."""
