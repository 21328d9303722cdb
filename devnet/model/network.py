"""The network in JAX: llama blocks (RMS norm, rotary embedding, SwiGLU), and the optimiser.

Matrices are stored as in GGUF and in Hugging Face: (outputs, inputs), y = x Wᵀ. Rotary pairs are neighbours (2i, 2i+1),
which is what llama.cpp calls NORM, so nothing is permuted when the file is written.
"""

import jax
import jax.numpy as jnp
import numpy as np

HEAD = 32  # features of a head
EPS = 1e-5
ROPE_BASE = 10000.0


def init(seed: int, vocab: int, layers: int, width: int, hidden: int):
    rng = np.random.default_rng(seed)
    normal = lambda *shape, scale: jnp.asarray(rng.normal(0, scale, shape), jnp.float32)
    inner = width**-0.5
    shapes = {"attn_q": (width, width), "attn_k": (width, width), "attn_v": (width, width), "attn_output": (width, width),
              "ffn_gate": (hidden, width), "ffn_up": (hidden, width), "ffn_down": (width, hidden)}
    quiet = {"attn_output", "ffn_down"}
    blocks = [{n: normal(*s, scale=inner * ((2 * layers) ** -0.5 if n in quiet else 1.0)) for n, s in shapes.items()}
              | {"attn_norm": jnp.ones(width), "ffn_norm": jnp.ones(width)} for _ in range(layers)]
    return {"token_embd": normal(vocab, width, scale=0.5), "output": normal(vocab, width, scale=0.02),
            "output_norm": jnp.ones(width), "blk": blocks}


def from_tensors(tensors, layers: int):
    """The parameters out of the tensors of a GGUF."""
    get = lambda name: jnp.asarray(tensors[f"{name}.weight"])
    names = [n.split(".")[2] for n in tensors if n.startswith("blk.0.")]
    return {"token_embd": get("token_embd"), "output": get("output"), "output_norm": get("output_norm"),
            "blk": [{n: get(f"blk.{i}.{n}") for n in names} for i in range(layers)]}


def rms(x, weight):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + EPS) * weight


def rotate(x, cos, sin):
    even, odd = x[..., 0::2], x[..., 1::2]
    return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], -1).reshape(x.shape)


def hidden_states(params, tokens, segments):
    """(batch * time, width) states for tokens and segments of (batch, time).

    A position sees itself and what came before it in its own segment.
    """
    batch, time = tokens.shape
    x = params["token_embd"][tokens.reshape(-1)]  # two dimensions all through: XLA multiplies those fastest on a CPU
    width = x.shape[-1]
    angles = np.arange(time)[:, None] * ROPE_BASE ** (-np.arange(0, HEAD, 2) / HEAD)
    cos, sin = (jnp.asarray(f(angles)[None, :, None], jnp.float32) for f in (np.cos, np.sin))
    mask = (segments[:, :, None] == segments[:, None, :]) & jnp.tril(jnp.ones((time, time), bool))
    bias = jnp.where(mask, 0.0, -1e9)[:, None]
    for blk in params["blk"]:
        h = rms(x, blk["attn_norm"])
        q, k, v = ((h @ blk[n].T).reshape(batch, time, width // HEAD, HEAD) for n in ("attn_q", "attn_k", "attn_v"))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * HEAD**-0.5 + bias
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, -1), v).reshape(batch * time, width)
        x = x + mixed @ blk["attn_output"].T
        h = rms(x, blk["ffn_norm"])
        x = x + (jax.nn.silu(h @ blk["ffn_gate"].T) * (h @ blk["ffn_up"].T)) @ blk["ffn_down"].T
    return rms(x, params["output_norm"])


def loss(params, tokens, segments, where, targets, weights):
    """Mean cross entropy at the flat positions `where`, which are followed by `targets`."""
    h = hidden_states(params, tokens, segments)
    logits = h[where] @ params["output"].T
    picked = jnp.take_along_axis(logits, targets[:, None], 1)[:, 0]
    return jnp.sum((jax.nn.logsumexp(logits, -1) - picked) * weights) / jnp.sum(weights)


def orthogonal(g):
    """Newton-Schulz iteration of the Muon optimiser: g with its singular values moved near 1."""
    tall = g.shape[0] > g.shape[1]
    x = g.T if tall else g
    x = x / (jnp.linalg.norm(x) + 1e-7)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if tall else x


def is_inner(path, leaf):
    return path[0].key == "blk" and leaf.ndim == 2


def optimiser_state(params):
    zeros = lambda p: jnp.zeros_like(p)
    return jax.tree.map(zeros, params), jax.tree.map(zeros, params)


def update(params, state, grads, step, muon_rate, adam_rate, decay):
    """Muon for the matrices of the blocks, Adam for embeddings and norms. Rates are for this step."""
    first, second = state

    def one(path, p, m, v, g):
        if is_inner(path, p):
            m = 0.95 * m + g
            direction = orthogonal(g + 0.95 * m) * max(1.0, p.shape[0] / p.shape[1]) ** 0.5
            return p * (1 - muon_rate * decay) - muon_rate * direction, m, v
        m, v = 0.9 * m + 0.1 * g, 0.98 * v + 0.02 * g * g
        direction = m / (1 - 0.9**step) / (jnp.sqrt(v / (1 - 0.98**step)) + 1e-9)
        return p - adam_rate * direction, m, v

    flat = jax.tree_util.tree_map_with_path(one, params, first, second, grads)
    pick = lambda i: jax.tree.map(lambda t: t[i], flat, is_leaf=lambda t: isinstance(t, tuple))
    return pick(0), (pick(1), pick(2))
