"""Plain `tf.Module`s of several architectures, each with faults that its code can have."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def variables_of(model: Any) -> list[Any]:
    """Return all variables below a model, in a fixed order; layers of Keras in modules too."""
    if hasattr(model, "layers") or not isinstance(model, tf.Module):
        return list(model.variables)
    view = tf.train.Checkpoint(model=model)
    found: list[Any] = []
    seen: set[int] = set()
    queue = [view]
    while queue:
        node = queue.pop(0)
        for _, child in sorted(node._trackable_children("checkpoint").items()):
            if id(child) not in seen:
                seen.add(id(child))
                if hasattr(child, "assign") and hasattr(child, "shape"):
                    found.append(child)
                queue.append(child)
    return found


class Linear(tf.Module):  # type: ignore[misc]
    """`x @ w + b`; w (inputs, outputs), b (outputs)."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.w = tf.Variable(np.zeros((inputs, outputs), "f4"), name="w")
        self.b = tf.Variable(np.zeros(outputs, "f4"), name="b")
        self.bias = bias

    def __call__(self, x: Any) -> Any:
        return x @ self.w + self.b if self.bias else x @ self.w


class Norm(tf.Module):  # type: ignore[misc]
    """Layer normalisation over the last axis."""

    def __init__(self, width: int, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.scale = tf.Variable(np.ones(width, "f4"), name="scale")
        self.offset = tf.Variable(np.zeros(width, "f4"), name="offset")
        self.epsilon = epsilon

    def __call__(self, x: Any) -> Any:
        mean = tf.reduce_mean(x, -1, keepdims=True)
        variance = tf.reduce_mean((x - mean) ** 2, -1, keepdims=True)
        return (x - mean) * tf.math.rsqrt(variance + self.epsilon) * self.scale + self.offset


class Active(tf.Module):  # type: ignore[misc]
    """A layer with an activation and a factor."""

    def __init__(self, inputs: int, outputs: int, act: Any = tf.tanh, factor: float = 1.0) -> None:
        super().__init__()
        self.linear = Linear(inputs, outputs)
        self.act, self.factor = act, factor

    def __call__(self, x: Any) -> Any:
        y = self.act(self.linear(x))
        return y * self.factor if self.factor != 1.0 else y


class NestedLists(tf.Module):  # type: ignore[misc]
    """A perceptron whose layers lie in lists of lists, and its head in a dict."""

    def __init__(self, fault: str) -> None:
        super().__init__(name="nested_lists")
        relu = tf.nn.relu if fault == "activation" else tf.tanh
        factor = 1.02 if fault == "scale" else 1.0
        self.blocks = [
            [Active(6, 6), Active(6, 6, factor=factor)],
            [Active(6, 6, relu), Active(6, 6)],
        ]
        self.head: dict[str, Any] = {"norm": Norm(6), "out": Linear(6, 3, bias=fault != "bias")}
        self.exchanged = fault == "exchanged"

    @tf.function(input_signature=[tf.TensorSpec([None, 6], tf.float32, name="x")])  # type: ignore[untyped-decorator]
    def __call__(self, x: Any) -> Any:
        first, second = self.blocks
        for layer in reversed(first) if self.exchanged else first:
            x = layer(x)
        for layer in second:
            x = layer(x)
        return self.head["out"](self.head["norm"](x))


class Flat(tf.Module):  # type: ignore[misc]
    """A perceptron of three layers, all of whose variables are its own."""

    def __init__(self, fault: str) -> None:
        super().__init__(name="flat")
        sizes = (5, 6, 6, 2)
        for at, (inputs, outputs) in enumerate(pairwise(sizes), 1):
            weights, bias = np.zeros((inputs, outputs), "f4"), np.zeros(outputs, "f4")
            setattr(self, f"w{at}", tf.Variable(weights, name=f"w{at}"))
            setattr(self, f"b{at}", tf.Variable(bias, name=f"b{at}"))
        self.fault = fault

    @tf.function(input_signature=[tf.TensorSpec([None, 5], tf.float32, name="x")])  # type: ignore[untyped-decorator]
    def __call__(self, x: Any) -> Any:
        h = tf.nn.relu(x @ self.w1 + self.b1)
        y = h @ self.w2 + self.b2
        y = tf.nn.softsign(y) if self.fault == "activation" else tf.tanh(y)
        if self.fault == "scale":
            y = y * 1.02
        if self.fault != "skip":
            y = y + h
        y = y @ self.w3
        if self.fault != "bias":
            y = y + self.b3
        return tf.nn.softmax(y, axis=0 if self.fault == "axis" else -1)


class Cell(tf.Module):  # type: ignore[misc]
    """An LSTM cell: gates i, f, g, o; w_x (inputs, 4 units), w_h (units, 4 units), b (4 units)."""

    def __init__(self, inputs: int, units: int, fault: str) -> None:
        super().__init__()
        self.w_x = tf.Variable(np.zeros((inputs, 4 * units), "f4"), name="w_x")
        self.w_h = tf.Variable(np.zeros((units, 4 * units), "f4"), name="w_h")
        self.b = tf.Variable(np.zeros(4 * units, "f4"), name="b")
        self.fault = fault

    def __call__(self, x: Any, h: Any, c: Any) -> tuple[Any, Any]:
        i, f, g, o = tf.split(x @ self.w_x + h @ self.w_h + self.b, 4, axis=-1)
        if self.fault == "gates":
            i, f = f, i
        f = f if self.fault == "forget" else f + 1.0
        c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
        return tf.sigmoid(o) * tf.tanh(c), c


class HandRnn(tf.Module):  # type: ignore[misc]
    """Tokens (N, 5), 0 for padding, to two logits."""

    def __init__(self, fault: str) -> None:
        super().__init__(name="hand_rnn")
        self.embedding = tf.Variable(np.zeros((12, 5), "f4"), name="embedding")
        self.cell = Cell(5, 6, fault)
        self.out = Linear(6, 2)
        self.masked = fault != "mask"

    @tf.function(input_signature=[tf.TensorSpec([None, 5], tf.int32, name="tokens")])  # type: ignore[untyped-decorator]
    def __call__(self, tokens: Any) -> Any:
        tokens = tokens % 12
        h = c = tf.zeros([tf.shape(tokens)[0], 6])
        for at in range(5):
            token = tokens[:, at]
            new_h, new_c = self.cell(tf.gather(self.embedding, token), h, c)
            seen = (token > 3)[:, None]
            h = tf.where(seen, new_h, h) if self.masked else new_h
            c = tf.where(seen, new_c, c) if self.masked else new_c
        return self.out(h)


class Attending(tf.Module):  # type: ignore[misc]
    """One round of graph attention: nodes (N, 6, features) with fixed edges."""

    def __init__(self, width: int, slope: float, axis: int, loops: bool) -> None:
        super().__init__()
        self.w = tf.Variable(np.zeros((width, width), "f4"), name="w")
        self.source = tf.Variable(np.zeros((width, 1), "f4"), name="source")
        self.target = tf.Variable(np.zeros((width, 1), "f4"), name="target")
        self.slope, self.axis = slope, axis
        edges = np.eye(6, k=1) + np.eye(6, k=-1) + np.eye(6, k=3)
        self.edges = (edges + np.eye(6) * loops).astype("f4")

    def __call__(self, nodes: Any) -> Any:
        h = nodes @ self.w
        scores = h @ self.source + tf.transpose(h @ self.target, [0, 2, 1])
        scores = tf.nn.leaky_relu(scores, self.slope) + (self.edges - 1) * 1e4
        return tf.nn.elu(tf.nn.softmax(scores, self.axis) @ h)


class GraphAttention(tf.Module):  # type: ignore[misc]
    """Two rounds of attention over a graph of six nodes, then their mean."""

    def __init__(self, fault: str) -> None:
        super().__init__(name="graph_attention")
        self.rounds = [
            Attending(4, 0.2, -2 if fault == "axis" else -1, fault != "loops"),
            Attending(4, 0.1 if fault == "slope" else 0.2, -1, True),
        ]
        self.read = Linear(4, 2)

    @tf.function(input_signature=[tf.TensorSpec([None, 6, 4], tf.float32, name="nodes")])  # type: ignore[untyped-decorator]
    def __call__(self, nodes: Any) -> Any:
        for each in self.rounds:
            nodes = each(nodes)
        return self.read(tf.reduce_mean(nodes, 1))


class Gate(tf.Module):  # type: ignore[misc]
    """How much each expert counts."""

    def __init__(self, inputs: int, experts: int, temperature: float) -> None:
        super().__init__()
        self.linear = Linear(inputs, experts)
        self.temperature = temperature

    def __call__(self, x: Any) -> Any:
        return tf.nn.softmax(self.linear(x) / self.temperature)


class Experts(tf.Module):  # type: ignore[misc]
    """A mixture of three experts of one shape."""

    def __init__(self, fault: str) -> None:
        super().__init__(name="experts")
        self.gate = Gate(5, 3, 1.5 if fault == "gate" else 1.0)
        acts = [tf.nn.relu, tf.nn.elu if fault == "activation" else tf.nn.relu, tf.nn.relu]
        self.experts = [Active(5, 5, act) for act in acts]
        self.out = Linear(5, 2)
        self.order = (2, 1, 0) if fault == "order" else (0, 1, 2)

    @tf.function(input_signature=[tf.TensorSpec([None, 5], tf.float32, name="x")])  # type: ignore[untyped-decorator]
    def __call__(self, x: Any) -> Any:
        shares = self.gate(x)
        told = tf.stack([self.experts[at](x) for at in self.order], -1)
        return self.out(tf.reduce_sum(told * shares[:, None, :], -1))


class KerasInModule(tf.Module):  # type: ignore[misc]
    """Layers of Keras 3 in a list of a plain module; they are no modules themselves."""

    def __init__(self, fault: str) -> None:
        super().__init__(name="keras_in_module")
        acts = ["relu", "elu" if fault == "activation" else "relu"]
        self.stages = [keras.layers.Dense(6, activation=act) for act in acts]
        epsilon = 0.05 if fault == "epsilon" else 1e-3
        self.norm = keras.layers.LayerNormalization(epsilon=epsilon)
        self.out = Linear(6, 2)
        self.skips = fault != "skip"
        for layer in (*self.stages, self.norm):
            layer.build((None, 6))

    @tf.function(input_signature=[tf.TensorSpec([None, 6], tf.float32, name="x")])  # type: ignore[untyped-decorator]
    def __call__(self, x: Any) -> Any:
        y = self.stages[0](x)
        y = self.norm(y + x if self.skips else y)
        return self.out(self.stages[1](y))


class Attention(tf.Module):  # type: ignore[misc]
    """Causal self-attention with two heads."""

    def __init__(self, width: int, causal: bool, scaled: bool) -> None:
        super().__init__()
        self.query, self.key = Linear(width, width), Linear(width, width)
        self.value, self.joined = Linear(width, width), Linear(width, width)
        self.causal, self.scaled = causal, scaled

    def _heads(self, x: Any) -> Any:
        return tf.transpose(tf.reshape(x, [-1, 6, 2, x.shape[-1] // 2]), [0, 2, 1, 3])

    def __call__(self, x: Any) -> Any:
        q, k, v = (self._heads(part(x)) for part in (self.query, self.key, self.value))
        scores = q @ tf.transpose(k, [0, 1, 3, 2])
        if self.scaled:
            scores = scores / np.sqrt(q.shape[-1]).astype("f4")
        if self.causal:
            scores = scores + (np.tril(np.ones((6, 6), "f4")) - 1) * 1e4
        mixed = tf.transpose(tf.nn.softmax(scores) @ v, [0, 2, 1, 3])
        return self.joined(tf.reshape(mixed, [-1, 6, x.shape[-1]]))


class Block(tf.Module):  # type: ignore[misc]
    """Attention and two layers, each around a skip."""

    def __init__(self, width: int, causal: bool, scaled: bool) -> None:
        super().__init__()
        self.attention = Attention(width, causal, scaled)
        self.before, self.between = Norm(width), Norm(width)
        self.mlp: list[Any] = [Active(width, 2 * width, tf.nn.gelu), Linear(2 * width, width)]

    def __call__(self, x: Any) -> Any:
        x = x + self.attention(self.before(x))
        y = self.between(x)
        for layer in self.mlp:
            y = layer(y)
        return x + y


class TiedDecoder(tf.Module):  # type: ignore[misc]
    """A decoder whose embedding reads and writes; tokens (N, 6) to logits (N, 6, 14)."""

    def __init__(self, fault: str) -> None:
        super().__init__(name="tied_decoder")
        self.embed = tf.Variable(np.zeros((14, 8), "f4"), name="embed")
        self.positions = tf.Variable(np.zeros((6, 8), "f4"), name="positions")
        self.blocks = [Block(8, fault != "mask", fault != "scale"), Block(8, True, True)]
        self.final = Norm(8, 0.05 if fault == "epsilon" else 1e-5)
        self.shift = 1 if fault == "positions" else 0

    @tf.function(input_signature=[tf.TensorSpec([None, 6], tf.int32, name="tokens")])  # type: ignore[untyped-decorator]
    def __call__(self, tokens: Any) -> Any:
        x = tf.gather(self.embed, tokens % 14) + tf.roll(self.positions, self.shift, 0)
        for block in self.blocks:
            x = block(x)
        return tf.matmul(self.final(x), self.embed, transpose_b=True)
