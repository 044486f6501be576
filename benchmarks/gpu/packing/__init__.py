"""What travels to a GPU machine without a network (wheels, libraries, a clip), and how it is packed."""
