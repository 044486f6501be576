"""Cameras on the command line: the names of their streams, their credentials, and the age of frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from operators.decoding.addresses import redact
from operators.graphs.graph_run import name_sources
from pipeline.errors import ConfigError

MAX_AGE_S = 2.0  # default of live runs: no stage begins to work on an older frame

Credentials = Mapping[str, Mapping[str, str]]  # stream: {username, password}


def name_cameras(sources: Iterable[str]) -> dict[str, str]:
    """Stream names for sources: NAME of `NAME=SOURCE`, else the URL's path or host, or the file's name.

    Names appear in logs and results, so none is made from a user's name, a password or a query.

    Raises:
        ConfigError: a name is given twice, or is empty.
    """
    given = list(sources)
    named = [_named(source) for source in given]
    names = name_sources(name for name, _ in named)
    return dict(zip(names, (uri for _, uri in named), strict=True))


def _named(source: str) -> tuple[str, str]:
    """A text without secrets from which `name_sources` makes the name, and the source's URL or path."""
    name, given, uri = source.partition("=")
    if given and "/" not in name and not Path(source).exists():
        return f"{name}=…", uri
    if "://" not in source:
        return source, source
    url = urlsplit(redact(source))
    return f"{Path(url.path).stem or url.hostname or 'camera'}.url", source


def read_credentials(path: Path) -> Credentials:
    """The user and the password of each stream, from a file. Messages name a line or a stream, never a value.

    Raises:
        ConfigError: the file cannot be read, or is not of the form NAME: {username: …, password: …}.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--credentials {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        raise ConfigError(
            f"--credentials {path}{f':{mark.line + 1}' if mark else ''}: not valid YAML"
        ) from None
    if not isinstance(data, dict):
        raise ConfigError(
            f"--credentials {path}: expected NAME: {{username: …, password: …}}, one line for each stream"
        )
    for name, login in data.items():
        texts = isinstance(login, dict) and all(isinstance(value, str) for value in login.values())
        if not texts or not set(login) <= {"username", "password"} or "username" not in login:
            raise ConfigError(
                f"--credentials {path}: {name}: expected {{username: …, password: …}} as text; quote numbers"
            )
    return data
