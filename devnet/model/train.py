"""Trains a model from nothing and writes it as GGUF. One command: `python train.py` (see README.md).

Turns are packed into rows of a fixed length. A row holds several conversations which do not see each other (segments);
rotary positions are relative, so a conversation in the middle of a row is the same as one at its start. Only what the
assistant says is learned.
"""

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

import generate
import gguf_file
import network
import tokenizer as tok

HERE = Path(__file__).parent
SHAPE = dict(layers=4, width=128, hidden=384, steps=5000, seed=1)
PRESETS = {
    "good": dict(SHAPE, file="lcai-tiny.gguf", name="lcai-tiny", stop=5000),
    # the same run, stopped long before its end
    "worse": dict(SHAPE, file="lcai-tiny-worse.gguf", name="lcai-tiny-worse", stop=1300),
}
VOCABULARY = 2048
CONTEXT = 512


def make_tokenizer():
    """From a sample of the training text, so it is the same for every model."""
    generator = generate.Generator(7)
    texts = [text for _ in range(60_000) for turn in generator.turns() for text in turn]
    return tok.train(texts + ["user", "assistant", "system"] * 3000, VOCABULARY)


class Packer:
    """Endless rows of (tokens, segments, learned) of one length."""

    def __init__(self, tokenizer, seed, length, sources):
        self.tokenizer, self.length, self.sources = tokenizer, length, sources
        self.generator = generate.Generator(seed)

    def conversation(self):
        tokens, learned = [], []
        encode, rng = self.tokenizer, self.generator.rng
        if rng.random() < 0.03:
            tokens += encode.turn("system", rng.choice(["You are a helpful assistant.", "Answer in one sentence.", "Be brief."]))
            learned += [0] * len(tokens)
        for prompt, answer in self.generator.conversation(self.sources):
            ask = encode.turn("user", prompt) + [tok.IM_START] + encode.encode("assistant\n")
            say = encode.encode(answer) + [tok.IM_END]
            tokens += ask + say + encode.encode("\n")
            learned += [0] * len(ask) + [1] * len(say) + [0]
        return tokens, learned

    def row(self):
        tokens, segments, learned = [], [], []
        segment = 0
        while len(tokens) < self.length + 1:
            t, l = self.conversation()
            tokens, learned, segments = tokens + t, learned + l, segments + [segment] * len(t)
            segment += 1
        n = self.length + 1
        return tokens[:n], segments[:n], learned[:n]

    def batch(self, rows):
        tokens, segments, learned = (np.asarray(x, np.int32) for x in zip(*(self.row() for _ in range(rows))))
        where = np.flatnonzero((learned[:, 1:] == 1) & (segments[:, 1:] == segments[:, :-1]))
        targets = tokens[:, 1:].reshape(-1)[where]
        room = int(rows * self.length * 0.46)
        weights = np.zeros(room, np.float32)
        weights[: len(where)] = 1
        pad = lambda x: np.resize(x, room).astype(np.int32)
        return tokens[:, :-1], segments[:, :-1], pad(where), pad(targets), weights


def train(preset, params, tokenizer, steps, minutes, keep, log=print):
    state = network.optimiser_state(params)
    log(f"{sum(x.size for x in jax.tree.leaves(params)):,} parameters")

    @jax.jit
    def step_fn(params, state, step, muon_rate, adam_rate, *batch):
        value, grads = jax.value_and_grad(network.loss)(params, *batch)
        params, state = network.update(params, state, grads, step, muon_rate, adam_rate, 0.01)
        return params, state, value

    # Short rows first, long conversations at the end: (share of the steps, rows, tokens in a row, sources at most)
    phases = [(0.85, 20, 128, 3), (1.0, 6, 448, 14)]
    start, step, progress, losses = time.monotonic(), 0, 0.0, []
    for phase, (until, rows, length, sources) in enumerate(phases):
        packer = Packer(tokenizer, 1000 * preset["seed"] + phase, length, sources)
        while progress < until and (minutes or step < preset["stop"]):
            step += 1
            progress = (time.monotonic() - start) / (60 * minutes) if minutes else step / steps
            warm = min(1.0, step / 50)
            fade = min(1.0, max(0.0, (1 - progress) / 0.6))  # constant, then straight down to nothing
            params, state, value = step_fn(params, state, np.float32(step), np.float32(0.02 * warm * fade),
                                           np.float32(0.004 * warm * fade), *packer.batch(rows))
            losses.append(value)
            if step % 100 == 0:
                log(f"step {step}  {100 * progress:.0f} %  loss {np.mean(losses[-100:]):.4f}  {time.monotonic() - start:.0f} s")
                keep(params)
    return params


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", nargs="?", choices=PRESETS, default="good")
    parser.add_argument("--steps", type=int, help="train for fewer or more steps")
    parser.add_argument("--minutes", type=float, help="train for so long instead of a number of steps")
    parser.add_argument("--from", type=Path, dest="origin", help="go on from this file, with its tokenizer, instead of from nothing")
    parser.add_argument("--out", type=Path, help="file to write")
    args = parser.parse_args()
    preset = PRESETS[args.preset]
    if args.origin:
        meta, tensors, tokenizer = gguf_file.read(args.origin)
        params = network.from_tensors(tensors, meta["llama.block_count"])
    else:
        tokenizer = make_tokenizer()
        params = network.init(preset["seed"], len(tokenizer.tokens), preset["layers"], preset["width"], preset["hidden"])
    out = args.out or HERE / preset["file"]

    def keep(params):
        gguf_file.write(out, jax.tree.map(np.asarray, params), tokenizer, preset["name"], CONTEXT)

    keep(train(preset, params, tokenizer, args.steps or preset["steps"], args.minutes, keep, lambda line: print(line, flush=True)))
    print(f"{out.name}: {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
