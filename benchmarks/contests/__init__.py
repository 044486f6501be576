"""Contests with the peers, one a file. `environment` makes their environments; `programs` run inside them."""
