from tools.options.graph import parse_changes


def test_changes_are_yaml_values():
    assert parse_changes(["a.b=0.4", "a.c=[x, y]", "a.d=true", "a.e=k=v"]) == {
        "a.b": 0.4, "a.c": ["x", "y"], "a.d": True, "a.e": "k=v"
    }  # fmt: skip
