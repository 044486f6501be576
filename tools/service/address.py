"""Where the control API listens, and where its token is."""

DEFAULT_ADDRESS = "127.0.0.1:8787"
TOKEN_VARIABLE = "POSESTREAM_TOKEN"
