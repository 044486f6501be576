"""What travels to a GPU machine that has no network: wheels, libraries, the clip; split, packed and installed."""
