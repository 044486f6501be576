"""A live run as a service: what it shows over HTTP, and `posestream top`, which asks for that."""
