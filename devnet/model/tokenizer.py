"""The tokenizer: SentencePiece-style merging by score, as llama.cpp does for `tokenizer.ggml.model = "llama"`.

Text has its spaces replaced by U+2581, is split into characters, and of all adjacent pairs whose concatenation is a
piece the one with the highest score (ties: the leftmost) is merged, until none is left. What is not a piece then
becomes byte tokens. Scores are minus the order in which training found the merge, so this is byte-pair encoding.
"""

import collections
import functools
import heapq
import re

SPACE = "\u2581"
UNKNOWN, BOS, EOS, FIRST_BYTE = 0, 1, 2, 3
IM_START, IM_END = 259, 260
FIRST_PIECE = 261
# gguf token types
NORMAL, UNKNOWN_TYPE, CONTROL, BYTE = 1, 2, 3, 6
# Merges stay inside such a word; everything else is a word of one character.
WORD = re.compile(rf"{SPACE}?[^\W\d_]+|.", re.DOTALL)


class Tokenizer:
    """Built from the three parallel arrays which the GGUF holds."""

    def __init__(self, tokens, scores, types):
        self.tokens, self.scores, self.types = tokens, scores, types
        self.ids = {t: i for i, t in enumerate(tokens) if types[i] == NORMAL}
        self.bytes = {int(t[3:5], 16): i for i, t in enumerate(tokens) if types[i] == BYTE}
        self.word = functools.lru_cache(maxsize=200_000)(self._merge)

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; control tokens in it are text. No merge crosses a word, so words are encoded alone."""
        text = text.replace(" ", SPACE)
        return [i for word in WORD.findall(text) for i in self.word(word)]

    def encode_whole(self, text: str) -> list[int]:
        """The same without the split into words: exactly the rule of llama.cpp."""
        return list(self._merge(text.replace(" ", SPACE)))

    def _merge(self, text):
        symbols, after, before = list(text), [], []
        n = len(symbols)
        after, before = [*range(1, n), -1], [*range(-1, n - 1)]
        queue = []

        def push(left, right):
            if left >= 0 and right >= 0 and (i := self.ids.get(symbols[left] + symbols[right])) is not None:
                heapq.heappush(queue, (-self.scores[i], left, right, symbols[left] + symbols[right]))

        for i in range(n - 1):
            push(i, i + 1)
        while queue:
            _, left, right, merged = heapq.heappop(queue)
            if not symbols[left] or not symbols[right] or symbols[left] + symbols[right] != merged:
                continue
            symbols[left], symbols[right] = merged, ""
            after[left] = after[right]
            if after[right] >= 0:
                before[after[right]] = left
            push(before[left], left)
            push(left, after[left])
        out = []
        for symbol in filter(None, symbols):
            if symbol in self.ids:
                out.append(self.ids[symbol])
            else:
                out += [self.bytes[b] for b in symbol.encode()]
        return tuple(out)

    def decode(self, ids) -> str:
        """Text of ids; control tokens are left out, invalid UTF-8 is replaced."""
        out = b""
        for i in ids:
            if self.types[i] == BYTE:
                out += bytes([int(self.tokens[i][3:5], 16)])
            elif self.types[i] == NORMAL:
                out += self.tokens[i].replace(SPACE, " ").encode()
        return out.decode(errors="replace")

    def turn(self, role, content):
        """<|im_start|>role\\ncontent<|im_end|>\\n"""
        return [IM_START, *self.encode(f"{role}\n{content}"), IM_END, *self.encode("\n")]

    def prompt(self, messages):
        """Ids of a conversation up to where the assistant speaks. messages: (role, content) pairs."""
        ids = [i for role, content in messages for i in self.turn(role, content)]
        return ids + [IM_START, *self.encode("assistant\n")]


def train(texts, size: int) -> Tokenizer:
    """Byte-pair encoding over words; `size` counts all tokens. Digits and marks are never merged."""
    counts = collections.Counter()
    for text in texts:
        counts.update(WORD.findall(text.replace(" ", SPACE)))
    alphabet = sorted({c for word, n in counts.items() if n > 1 for c in word if c.isascii() or c in SPACE + "äöüßéèñçøå"} - {"\n"})
    words = [(list(w), n) for w, n in counts.items() if n > 2 and len(w) > 1 and set(w) <= set(alphabet)]
    pairs, where = collections.Counter(), collections.defaultdict(set)
    for i, (symbols, n) in enumerate(words):
        for pair in zip(symbols, symbols[1:]):
            pairs[pair] += n
            where[pair].add(i)
    pieces = list(alphabet)
    known = set(pieces)
    while len(pieces) + FIRST_PIECE < size:
        (a, b), n = max(pairs.items(), key=lambda item: (item[1], item[0]))
        if n < 2:
            raise SystemExit(f"only {len(pieces) + FIRST_PIECE} tokens found")
        merged = a + b
        if merged not in known:
            known.add(merged)
            pieces.append(merged)
        for i in list(where.pop((a, b))):
            symbols, n = words[i]
            for pair in zip(symbols, symbols[1:]):
                pairs[pair] -= n
                where[pair].discard(i)
            j = 0
            while j + 1 < len(symbols):
                if symbols[j] == a and symbols[j + 1] == b:
                    symbols[j : j + 2] = [merged]
                j += 1
            for pair in zip(symbols, symbols[1:]):
                pairs[pair] += n
                where[pair].add(i)
        pairs.pop((a, b), None)
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + ["<|im_start|>", "<|im_end|>"] + pieces
    types = [UNKNOWN_TYPE, CONTROL, CONTROL] + [BYTE] * 256 + [CONTROL] * 2 + [NORMAL] * len(pieces)
    scores = [0.0] * FIRST_PIECE + [-float(i) for i in range(len(pieces))]
    return Tokenizer(tokens, scores, types)
