"""Writes and reads the GGUF: matrices as F16, norms as F32, the tokenizer and chat template in the metadata."""

import gguf
import numpy as np

import network
from tokenizer import BOS, EOS, IM_END, UNKNOWN, Tokenizer

# ChatML, letter by letter as other programs know it (llama.cpp and Ollama recognise templates by their text).
CHAT_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write(path, params, tokenizer: Tokenizer, name: str, context: int):
    width = params["token_embd"].shape[1]
    heads = width // network.HEAD
    w = gguf.GGUFWriter(str(path), "llama")
    w.add_name(name)
    w.add_description("A tiny chat model, trained from nothing by the code beside it in the lcai repository.")
    w.add_license("MIT OR Apache-2.0")
    w.add_languages(["en"])
    w.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    w.add_quantization_version(gguf.GGML_QUANT_VERSION)
    w.add_vocab_size(len(tokenizer.tokens))
    w.add_context_length(context)
    w.add_embedding_length(width)
    w.add_block_count(len(params["blk"]))
    w.add_feed_forward_length(params["blk"][0]["ffn_gate"].shape[0])
    w.add_head_count(heads)
    w.add_head_count_kv(heads)
    w.add_layer_norm_rms_eps(network.EPS)
    w.add_rope_dimension_count(network.HEAD)
    w.add_rope_freq_base(network.ROPE_BASE)
    w.add_tokenizer_model("llama")
    w.add_tokenizer_pre("default")
    w.add_token_list(tokenizer.tokens)
    w.add_token_scores(tokenizer.scores)
    w.add_token_types(tokenizer.types)
    w.add_bos_token_id(BOS)
    w.add_eos_token_id(IM_END)
    w.add_unk_token_id(UNKNOWN)
    w.add_pad_token_id(EOS)
    w.add_add_bos_token(False)
    w.add_add_eos_token(False)
    w.add_add_space_prefix(False)
    w.add_chat_template(CHAT_TEMPLATE)
    matrix = lambda name, x: w.add_tensor(f"{name}.weight", np.ascontiguousarray(x, dtype=np.float16))
    vector = lambda name, x: w.add_tensor(f"{name}.weight", np.ascontiguousarray(x, dtype=np.float32))
    matrix("token_embd", params["token_embd"])
    for i, blk in enumerate(params["blk"]):
        for key, x in blk.items():
            (matrix if x.ndim == 2 else vector)(f"blk.{i}.{key}", x)
    vector("output_norm", params["output_norm"])
    matrix("output", params["output"])
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def read(path):
    """(metadata, tensors as float32 in (outputs, inputs) order, tokenizer) of a file."""
    reader = gguf.GGUFReader(str(path))
    meta = {key: field.contents() for key, field in reader.fields.items()}
    tensors = {t.name: np.asarray(t.data, np.float32) for t in reader.tensors}
    tokenizer = Tokenizer(meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.scores"], meta["tokenizer.ggml.token_type"])
    return meta, tensors, tokenizer
