"""YAML with line numbers, so that an error can name the line."""

from __future__ import annotations

from typing import Any

import yaml

from pipeline.errors import ConfigError

Path = tuple[str | int, ...]


def parse_yaml(text: str, where: str) -> tuple[Any, dict[Path, int]]:
    """Parse `text`; the data, and the line (from 1) of every key and item by its path.

    Raises:
        ConfigError: not YAML, or a key is given twice (YAML would silently take the last one).
    """
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        lines: dict[Path, int] = {}
        return (_build(loader, root, (), lines, where) if root else None), lines
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{where}:{line} is not valid YAML: {error.problem}") from None
    finally:
        loader.dispose()


def _build(loader: yaml.SafeLoader, node: yaml.Node, path: Path, lines: dict[Path, int], where: str) -> Any:
    if isinstance(node, yaml.MappingNode):
        loader.flatten_mapping(node)
        data: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = loader.construct_object(key_node)
            line = key_node.start_mark.line + 1
            if key in data:
                raise ConfigError(
                    f"{where}:{line} {key} is given twice, first in line {lines[*path, key]}; remove one"
                )
            lines[*path, key] = line
            data[key] = _build(loader, value_node, (*path, key), lines, where)
        return data
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[*path, index] = item.start_mark.line + 1
        return [_build(loader, item, (*path, i), lines, where) for i, item in enumerate(node.value)]
    return loader.construct_object(node)
