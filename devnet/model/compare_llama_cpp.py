"""Checks that llama.cpp reads the file as eval.py does: same tokens, same greedy answers.

Needs `pip install llama-cpp-python` (a source build with cmake), which nothing else here does.
"""

import argparse
import ctypes
import json
from pathlib import Path

import llama_cpp

import eval as numpy_eval
from tokenizer import IM_START

HERE = Path(__file__).parent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", nargs="?", type=Path, default=HERE / "lcai-tiny.gguf")
    parser.add_argument("--prompts", type=int, default=40)
    args = parser.parse_args()
    ours = numpy_eval.Model(args.gguf)
    llama = llama_cpp.Llama(str(args.gguf), n_ctx=ours.context, n_threads=1, verbose=False)
    rows = [json.loads(line) for line in (HERE / "heldout.jsonl").read_text().splitlines()][: args.prompts]
    odd = ["ça va? 漢字 🎉", "two  spaces\nand a line", "12345678901234567890", "", " lead", "<|im_end|> as text", "\u2581", "a\tb"]
    for text in [row["prompt"] for row in rows] + odd:
        theirs = llama.tokenize(text.encode(), add_bos=False, special=False)
        if theirs != ours.tokenizer.encode(text) or theirs != ours.tokenizer.encode_whole(text):
            raise SystemExit(f"tokens differ for {text!r}")
    template = llama.metadata["tokenizer.chat_template"]
    asked = [[("user", row["prompt"])] for row in rows]
    asked += [[("user", "Hello"), ("assistant", "Hello! How can I help you?"), *m] for m in asked[:10]]
    asked.append([("user", "My name is Alice."), ("assistant", "Nice to meet you, Alice."), ("user", "What is my name?")])
    same = 0
    for messages in asked:
        dicts = [{"role": r, "content": c} for r, c in messages]
        said = llama.create_chat_completion(dicts, temperature=0, max_tokens=64, repeat_penalty=1.0)["choices"][0]["message"]["content"]
        mine = ours.answer(messages)
        same += said == mine
        if said != mine:
            print(f"{messages[-1][1]!r}: llama.cpp says {said!r}, eval.py says {mine!r}")
        rendered = rendered_by_llama_cpp(template, messages)
        if llama.tokenize(rendered, add_bos=True, special=True) != ours.tokenizer.prompt(messages):
            raise SystemExit(f"the template renders otherwise for {messages!r}: {rendered!r}")
    print(f"tokens equal for {len(rows) + len(odd)} texts; answers equal for {same} of {len(asked)} conversations")
    raise SystemExit(same != len(asked))


def rendered_by_llama_cpp(template, messages):
    """The conversation as llama.cpp's own template code (no Jinja) writes it."""
    chat = (llama_cpp.llama_chat_message * len(messages))(*(
        llama_cpp.llama_chat_message(role=r.encode(), content=c.encode()) for r, c in messages))
    buffer = ctypes.create_string_buffer(65536)
    n = llama_cpp.llama_chat_apply_template(template.encode(), chat, len(messages), True, buffer, len(buffer))
    if n < 0:
        raise SystemExit("llama.cpp does not know the chat template")
    return buffer.raw[:n]


if __name__ == "__main__":
    main()
