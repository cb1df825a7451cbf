"""Gemma 3 12B on GPUs, on paper: its geometry, data sheets, and assumptions. Nothing of this was measured."""

import math
from dataclasses import dataclass

from bench.capacity.law import answers_per_s, token_s


@dataclass(frozen=True, slots=True)
class Geometry:
    """A model of Gemma 3's form; the defaults are the 12B one's.

    Attributes:
        layers: of the text model.
        full_layers: of them, those that attend to everything; the others to `window` tokens.
        window: likewise.
        hidden: width.
        intermediate: width of the feed-forward layers.
        heads: of queries.
        kv_heads: of keys and values.
        head: width of a head.
        vocabulary: tokens.
        picture_tokens: that a picture is in a prompt.
        picture_flops: operations of the vision tower for one picture.
    """

    layers: int = 48
    full_layers: int = 8
    window: int = 1024
    hidden: int = 3840
    intermediate: int = 15360
    heads: int = 16
    kv_heads: int = 8
    head: int = 256
    vocabulary: int = 262_208
    picture_tokens: int = 256
    # 27 layers of width 1152 and 4304 over 4096 patches, which all attend to all.
    picture_flops: float = 2.0 * 4096 * 27 * (4 * 1152**2 + 2 * 1152 * 4304) + 4.0 * 27 * 4096**2 * 1152

    @property
    def linear(self) -> int:
        """Weights of the linear layers, a byte each."""
        attention = self.hidden * self.head * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def step_bytes(self) -> float:
        """Weights that a step reads: linear layers in FP8, the vocabulary in bf16."""
        return self.linear + 2.0 * self.vocabulary * self.hidden

    @property
    def token_flops(self) -> float:
        """Operations of one token's products."""
        return 2.0 * (self.linear + self.vocabulary * self.hidden)

    def kv_bytes(self, context: float) -> float:
        """Keys and values of a sequence, in bf16: what it takes of memory, and what a step reads of it."""
        sliding = (self.layers - self.full_layers) * min(context, self.window)
        return 2.0 * 2 * self.kv_heads * self.head * (self.full_layers * context + sliding)

    def attention_flops(self, prompt: float) -> float:
        """Operations of a prompt's attention: each token to those before it, in the window or all of them."""
        full = self.full_layers * prompt**2 / 2
        sliding = (self.layers - self.full_layers) * (
            prompt * min(prompt, self.window) - min(prompt, self.window) ** 2 / 2
        )
        return 4.0 * self.heads * self.head * (full + sliding)


@dataclass(frozen=True, slots=True)
class Gpu:
    """Of a data sheet, without sparsity.

    Attributes:
        name: of the GPU.
        memory: bytes.
        bandwidth: bytes a second of memory.
        fp8: operations a second.
        bf16: likewise.
        link: bytes a second to the others, in one direction.
        link_s: assumed seconds of an all-reduce of nothing.
    """

    name: str
    memory: float
    bandwidth: float
    fp8: float
    bf16: float
    link: float
    link_s: float


GPUS = (
    Gpu("H100 SXM", 80e9, 3.35e12, 1979e12, 989e12, 450e9, 10e-6),
    Gpu("L40S", 48e9, 0.864e12, 733e12, 362e12, 32e9, 30e-6),
)


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What data sheets do not say.

    Attributes:
        memory_share: of the bandwidth that is reached.
        flops_share: of the operations a second that are reached.
        host: seconds of a step on the host that nothing hides.
        usable: share of a GPU's memory that vLLM takes (--gpu-memory-utilization).
        reserve: bytes of it, on each GPU, for activations and graphs.
        most_sequences: --max-num-seqs.
    """

    memory_share: float = 0.7
    flops_share: float = 0.5
    host: float = 1e-3
    usable: float = 0.9
    reserve: float = 4e9
    most_sequences: int = 256


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica over the first `ranks` GPUs of a node (tensor parallel); `Costs` by the roofline."""

    model: Geometry
    gpu: Gpu
    ranks: int
    assumed: Assumptions

    @property
    def picture_tokens(self) -> int:
        """The model's."""
        return self.model.picture_tokens

    def asked(self, prompt: float, pictures: float = 0) -> float:
        """Arithmetic of a prompt and its pictures; the tower is on every rank, and in bf16."""
        tokens = prompt + pictures * self.model.picture_tokens
        share = self.assumed.flops_share
        products = self.model.linear * 2.0 * tokens / (self.ranks * self.gpu.fp8 * share)
        attention = self.model.attention_flops(tokens) / (self.ranks * self.gpu.bf16 * share)
        tower = pictures * self.model.picture_flops / (self.gpu.bf16 * share)
        return products + attention + tower + self._reduced(tokens)

    def step(self, sequences: float, context: float) -> float:
        """Reading weights, keys and values, or arithmetic, whichever takes longer; links and host besides."""
        read = self.model.step_bytes + sequences * self.model.kv_bytes(context)
        memory = read / (self.ranks * self.gpu.bandwidth * self.assumed.memory_share)
        flops = sequences * self.model.token_flops / (self.ranks * self.gpu.fp8 * self.assumed.flops_share)
        latency = 2 * self.model.layers * self.gpu.link_s if self.ranks > 1 else 0.0
        return max(memory, flops) + latency + self._reduced(sequences) + self.assumed.host

    def _reduced(self, tokens: float) -> float:
        """Two all-reduces a layer, in bf16."""
        each = 2 * (self.ranks - 1) / self.ranks * tokens * self.model.hidden * 2
        return 2 * self.model.layers * each / self.gpu.link

    def room(self, context: float) -> int:
        """Sequences whose keys and values fit."""
        memory = self.ranks * (self.gpu.memory * self.assumed.usable - self.assumed.reserve)
        return math.floor((memory - self.model.step_bytes) / self.model.kv_bytes(context))


@dataclass(frozen=True, slots=True)
class Workload:
    """What is asked.

    Attributes:
        name: in tables.
        prompt: tokens of the text.
        answer: tokens.
        pictures: of each request.
    """

    name: str
    prompt: int
    answer: int
    pictures: int = 0


WORKLOADS = (
    Workload("chat", 512, 256),
    Workload("documents", 8192, 512),
    Workload("a picture", 128, 128, 1),
)


@dataclass(frozen=True, slots=True)
class Front:
    """What one serving process takes of a core, measured on another machine.

    Attributes:
        token: seconds for each streamed token.
    """

    token: float

    def answers_per_s(self, answer: float) -> float:
        """Answers a second that one event loop can stream, a message for each token."""
        return 1 / (self.token * answer)


@dataclass(frozen=True, slots=True)
class Node:
    """What a node of four GPUs can answer.

    Attributes:
        replicas: on it.
        sequences: that run on each.
        bound: what keeps more from running: the objective, memory, or --max-num-seqs.
        engine: answers a second of all engines.
        front: that all fronts can stream.
        token: seconds between tokens.
    """

    replicas: int
    sequences: int
    bound: str
    engine: float
    front: float
    token: float

    @property
    def answers(self) -> float:
        """Answers a second."""
        return min(self.engine, self.front)

    @property
    def first(self) -> str:
        """What is full first, in words."""
        if self.front < self.engine:
            return "the front's event loop"
        if self.bound == "memory":
            return "memory for keys and values"
        return "the GPUs" if self.bound == "objective" else "--max-num-seqs"


def node(replica: Replica, load: Workload, front: Front, objective: float, gpus: int = 4) -> Node | None:
    """As many sequences as fit, and as tokens still come within the objective.

    Args:
        replica: one of those on the node.
        load: what is asked.
        front: what serving a token takes.
        objective: most seconds between tokens.
        gpus: of the node.

    Returns:
        None where not even one sequence keeps the objective, or fits.
    """
    prompt = load.prompt + load.pictures * replica.model.picture_tokens
    room = replica.room(prompt + load.answer)
    caps = {"memory": room, "limit": replica.assumed.most_sequences}
    bound = min(caps, key=lambda name: caps[name])
    sequences = caps[bound]
    while sequences > 0 and token_s(replica, sequences, load.prompt, load.answer, load.pictures) > objective:
        sequences, bound = sequences - 1, "objective"
    if sequences < 1:
        return None
    replicas = gpus // replica.ranks
    engine = answers_per_s(replica, sequences, load.prompt, load.answer, load.pictures)
    return Node(
        replicas,
        sequences,
        bound,
        replicas * engine,
        replicas * front.answers_per_s(load.answer),
        token_s(replica, sequences, load.prompt, load.answer, load.pictures),
    )


def nodes_for(demand: float, of_node: Node, used: float = 0.7) -> int:
    """Nodes for so many answers a second, each used by a share of what it can: arrivals are uneven."""
    return math.ceil(demand / (of_node.answers * used))
