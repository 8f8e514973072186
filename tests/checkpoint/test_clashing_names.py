"""What tensors are called where several of an object graph share one full name."""

from __future__ import annotations

from ckptkit.checkpoint.object_names import name_objects
from ckptkit.stores.base import Node, ObjectGraph, TensorSpec

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


def names_of(objects: dict[str, dict[str, str]]) -> list[str]:
    """Return the names of {object: {attribute: full name}}, objects being children of the root."""
    nodes: list[Node] = []
    root: list[tuple[str, int]] = []
    specs: dict[str, TensorSpec] = {}
    for name, variables in objects.items():
        edges = []
        root.append((name, len(nodes) + 1))
        nodes.append(Node((), (), ()))
        place = len(nodes) - 1
        for attribute, full_name in variables.items():
            key = f"{name}/{attribute}{SUFFIX}"
            specs[key] = TensorSpec(key, "float32", (2, 3), 24, 0, 24 * len(specs), len(specs))
            edges.append((attribute, len(nodes) + 1))
            nodes.append(Node((), (("VARIABLE_VALUE", full_name, key),), ()))
        nodes[place] = Node(tuple(edges), (), ())
    namings = name_objects(specs, ObjectGraph((Node(tuple(root), (), ()), *nodes)))
    return [namings[key].name for key in specs]


def test_a_clash_takes_the_names_of_those_that_clash_and_of_no_others() -> None:
    found = names_of(
        {
            "list": {"0": "net/w", "1": "net/w", "2": "net/gamma", "3": "net/inner/bias"},
            "more": {"0": "other/w"},
        }
    )
    assert found == ["list/0", "list/1", "net/gamma", "net/inner/bias", "other/w"]


def test_a_sharded_kernel_is_called_in_the_manner_of_its_layer() -> None:
    """Sharded variables have the name of their class for a full name, all the same."""
    found = names_of(
        {
            "layer_with_weights-0": {"embeddings": "ShardedVariable"},
            "layer_with_weights-1": {"kernel": "ShardedVariable", "bias": "dense/bias"},
        }
    )
    assert found == ["layer_with_weights-0/embeddings", "dense/kernel", "dense/bias"]


def test_no_name_is_given_twice() -> None:
    """What the manner of a layer gives must not be the name of another tensor."""
    found = names_of(
        {
            "a": {"kernel": "ShardedVariable", "bias": "dense/bias"},
            "b": {"kernel": "ShardedVariable", "w": "dense/kernel"},
        }
    )
    assert found == ["a/kernel", "dense/bias", "b/kernel", "dense/kernel"]
