"""Asks a GGUF the held-out prompts and prints how many answers are right: `python eval.py [file.gguf]`.

Reads nothing but the file, with a forward pass of its own in numpy, so it checks the file and not the training code.
Greedy decoding; an answer is right when it equals the expected text.
"""

import argparse
import collections
import json
import os
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import gguf_file

HERE = Path(__file__).parent


class Model:
    """A llama-architecture model with a key/value cache per conversation."""

    def __init__(self, path):
        self.meta, self.tensors, self.tokenizer = gguf_file.read(path)
        key = lambda name: self.meta[f"llama.{name}"]
        self.layers, self.heads = key("block_count"), key("attention.head_count")
        self.kv_heads, self.eps = key("attention.head_count_kv"), key("attention.layer_norm_rms_epsilon")
        self.size = key("embedding_length") // self.heads
        self.rates = key("rope.freq_base") ** (-np.arange(0, self.size, 2, dtype=np.float32) / self.size)
        self.eos, self.context = self.meta["tokenizer.ggml.eos_token_id"], key("context_length")

    def norm(self, x, name):
        return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + self.eps) * self.tensors[f"{name}.weight"]

    def rotate(self, x, start):
        angles = (start + np.arange(x.shape[0], dtype=np.float32))[:, None, None] * self.rates
        out, cos, sin = np.empty_like(x), np.cos(angles), np.sin(angles)
        out[..., 0::2] = x[..., 0::2] * cos - x[..., 1::2] * sin
        out[..., 1::2] = x[..., 0::2] * sin + x[..., 1::2] * cos
        return out

    def forward(self, ids, cache):
        """Logits after the last of `ids`; the cache (a list, empty at first) grows."""
        start = cache[0][0].shape[0] if cache else 0
        x = self.tensors["token_embd.weight"][ids]
        time = len(ids)
        mask = np.arange(start + time)[None] > (start + np.arange(time))[:, None]
        for i in range(self.layers):
            h = self.norm(x, f"blk.{i}.attn_norm")
            q, k, v = ((h @ self.tensors[f"blk.{i}.attn_{n}.weight"].T).reshape(time, -1, self.size) for n in "qkv")
            q, k = self.rotate(q, start), self.rotate(k, start)
            if i < len(cache):
                k, v = np.concatenate([cache[i][0], k]), np.concatenate([cache[i][1], v])
                cache[i] = (k, v)
            else:
                cache.append((k, v))
            k, v = (np.repeat(t, self.heads // self.kv_heads, 1) for t in (k, v))
            scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(self.size)
            scores = np.where(mask, -np.inf, scores)
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            scores /= scores.sum(-1, keepdims=True)
            mixed = np.einsum("hqk,khd->qhd", scores, v).reshape(time, -1)
            x = x + mixed @ self.tensors[f"blk.{i}.attn_output.weight"].T
            h = self.norm(x, f"blk.{i}.ffn_norm")
            gate = h @ self.tensors[f"blk.{i}.ffn_gate.weight"].T
            x = x + (gate / (1 + np.exp(-gate)) * (h @ self.tensors[f"blk.{i}.ffn_up.weight"].T)) @ self.tensors[f"blk.{i}.ffn_down.weight"].T
        return self.norm(x[-1], "output_norm") @ self.tensors["output.weight"].T

    def answer(self, messages, limit=64):
        """What the assistant says after `messages`, (role, content) pairs."""
        ids, out, cache = self.tokenizer.prompt(messages), [], []
        while len(out) < limit:
            token = int(np.argmax(self.forward(ids, cache)))
            if token == self.eos:
                break
            out.append(token)
            ids = [token]
        return self.tokenizer.decode(out)


def score(model, rows, history=()):
    """Families' counts of right answers and of questions, and the wrong ones."""
    right, asked, wrong = collections.Counter(), collections.Counter(), []
    for row in rows:
        said = model.answer([*history, ("user", row["prompt"])])
        asked[row["family"]] += 1
        if said == row["answer"]:
            right[row["family"]] += 1
        else:
            wrong.append((row["prompt"], row["answer"], said))
    return right, asked, wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", nargs="?", type=Path, default=HERE / "lcai-tiny.gguf")
    parser.add_argument("--history", action="store_true", help="after three unrelated turns")
    parser.add_argument("--wrong", action="store_true", help="print the wrong answers")
    parser.add_argument("--least", type=float, default=0, metavar="PERCENT", help="fail below this share of right answers")
    parser.add_argument("--ask", help="one prompt instead of the held-out list")
    args = parser.parse_args()
    model = Model(args.gguf)
    if args.ask:
        print(model.answer([("user", args.ask)]))
        return
    rows = [json.loads(line) for line in (HERE / "heldout.jsonl").read_text().splitlines()]
    history = [("user", "Hello"), ("assistant", "Hello! How can I help you?"), ("user", "What is the plural of foot?"),
               ("assistant", "The plural of foot is feet."), ("user", "12 + 5"), ("assistant", "12 + 5 = 17.")]
    right, asked, wrong = score(model, rows, history if args.history else ())
    for family in sorted(asked, key=asked.get, reverse=True):
        print(f"{family:16} {right[family]:3} of {asked[family]:3}")
    if args.wrong:
        for prompt, expected, said in wrong:
            print(f"  {prompt!r}: {said!r}, not {expected!r}")
    percent = 100 * right.total() / asked.total()
    print(f"{args.gguf.name}: {right.total()} of {asked.total()} held-out prompts right ({percent:.1f} %)")
    raise SystemExit(percent < args.least)


if __name__ == "__main__":
    main()
