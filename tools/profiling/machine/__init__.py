"""What a measurement says of the machine: its hardware, and what of it was used."""
