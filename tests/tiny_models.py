"""Language models that answer at once and always the same: a table in the shape of a llama.

Whatever came before, the letter after "a" is "b", after "y" "z", after "z" ".", and after "." the answer is over.
After "9" comes "0": an answer to a question that ends with a digit never ends by itself. After every other
character comes "a". Each character is one token. Made with the standard library alone, for two servers:

    write_gguf(path)       for llama.cpp
    write_mlx(directory)   for mlx_lm.server
"""
import array
import json
import os
import string
import struct
import sys

HIDDEN, HEADS, LAYERS, INNER = 320, 5, 1, 64
BYTES = 256
END = BYTES  # the token that ends an answer
VOCABULARY = BYTES + 1
CONTEXT = 16384
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def next_token(token):
    text = chr(token) if token < BYTES else ""
    if text in tuple(string.ascii_lowercase[:-1]):
        return token + 1
    if text in tuple(string.digits):
        return ord("0") + (token - ord("0") + 1) % 10
    return {"z": ord("."), ".": END}.get(text, ord("a"))


def byte_names():
    """How the tokenizer of GPT-2 writes each byte: as itself where that can be seen, else shifted to where it can."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    unseen = iter(range(256, 512))
    return [chr(byte) if byte in seen else chr(next(unseen)) for byte in range(BYTES)]


def matrix(rows, columns, ones=(), value=1.0):
    """`rows` of `columns` little-endian floats, 0 but for `value` at each (row, column) of `ones`."""
    floats = array.array("f", bytes(4 * rows * columns))
    for row, column in ones:
        floats[row * columns + column] = value
    if sys.byteorder == "big":
        floats.byteswap()
    return floats.tobytes()


def vector(size):
    return struct.pack(f"<{size}f", *[1.0] * size)


def tensors(names):
    """(name, shape, bytes) of the whole model: the layers add nothing, so what the last token is decides alone."""
    result = [(names["embedding"], (VOCABULARY, HIDDEN), matrix(VOCABULARY, HIDDEN, ((i, i) for i in range(VOCABULARY)))),
              (names["norm"], (HIDDEN,), vector(HIDDEN)),
              (names["output"], (VOCABULARY, HIDDEN),
               matrix(VOCABULARY, HIDDEN, ((next_token(i), i) for i in range(VOCABULARY)), 3.0))]
    for layer in range(LAYERS):
        def add(key, rows, columns):
            result.append((names[key].format(layer), (rows, columns), matrix(rows, columns)))
        for key in ("attention_norm", "inner_norm"):
            result.append((names[key].format(layer), (HIDDEN,), vector(HIDDEN)))
        for key in ("q", "k", "v", "o"):
            add(key, HIDDEN, HIDDEN)
        add("gate", INNER, HIDDEN)
        add("up", INNER, HIDDEN)
        add("down", HIDDEN, INNER)
    return result


GGUF_NAMES = {
    "embedding": "token_embd.weight", "norm": "output_norm.weight", "output": "output.weight",
    "attention_norm": "blk.{}.attn_norm.weight", "inner_norm": "blk.{}.ffn_norm.weight",
    "q": "blk.{}.attn_q.weight", "k": "blk.{}.attn_k.weight", "v": "blk.{}.attn_v.weight",
    "o": "blk.{}.attn_output.weight", "gate": "blk.{}.ffn_gate.weight", "up": "blk.{}.ffn_up.weight",
    "down": "blk.{}.ffn_down.weight"}

MLX_NAMES = {
    "embedding": "model.embed_tokens.weight", "norm": "model.norm.weight", "output": "lm_head.weight",
    "attention_norm": "model.layers.{}.input_layernorm.weight",
    "inner_norm": "model.layers.{}.post_attention_layernorm.weight",
    "q": "model.layers.{}.self_attn.q_proj.weight", "k": "model.layers.{}.self_attn.k_proj.weight",
    "v": "model.layers.{}.self_attn.v_proj.weight", "o": "model.layers.{}.self_attn.o_proj.weight",
    "gate": "model.layers.{}.mlp.gate_proj.weight", "up": "model.layers.{}.mlp.up_proj.weight",
    "down": "model.layers.{}.mlp.down_proj.weight"}

GGUF_U32, GGUF_I32, GGUF_F32, GGUF_BOOL, GGUF_STRING, GGUF_ARRAY = 4, 5, 6, 7, 8, 9
GGUF_ALIGNMENT = 32


def gguf_string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def gguf_value(kind, value):
    if kind == GGUF_STRING:
        return gguf_string(value)
    return struct.pack({GGUF_U32: "<I", GGUF_I32: "<i", GGUF_F32: "<f", GGUF_BOOL: "<?"}[kind], value)


def gguf_pair(key, kind, value):
    if isinstance(value, list):
        return (gguf_string(key) + struct.pack("<IIQ", GGUF_ARRAY, kind, len(value)) +
                b"".join(gguf_value(kind, item) for item in value))
    return gguf_string(key) + struct.pack("<I", kind) + gguf_value(kind, value)


def write_gguf(path):
    names = byte_names()
    pairs = [
        ("general.architecture", GGUF_STRING, "llama"), ("general.name", GGUF_STRING, "tiny"),
        ("llama.context_length", GGUF_U32, CONTEXT), ("llama.embedding_length", GGUF_U32, HIDDEN),
        ("llama.block_count", GGUF_U32, LAYERS), ("llama.feed_forward_length", GGUF_U32, INNER),
        ("llama.attention.head_count", GGUF_U32, HEADS), ("llama.attention.head_count_kv", GGUF_U32, HEADS),
        ("llama.attention.layer_norm_rms_epsilon", GGUF_F32, 1e-5),
        ("llama.pooling_type", GGUF_U32, 1),  # mean: an embedding is one vector, not one for each token
        ("llama.rope.dimension_count", GGUF_U32, HIDDEN // HEADS),
        ("tokenizer.ggml.model", GGUF_STRING, "gpt2"), ("tokenizer.ggml.pre", GGUF_STRING, "gpt-2"),
        ("tokenizer.ggml.tokens", GGUF_STRING, [*names, "</s>"]),
        ("tokenizer.ggml.token_type", GGUF_I32, [1] * BYTES + [3]),
        ("tokenizer.ggml.merges", GGUF_STRING, []),
        ("tokenizer.ggml.eos_token_id", GGUF_U32, END), ("tokenizer.ggml.bos_token_id", GGUF_U32, END),
        ("tokenizer.ggml.add_bos_token", GGUF_BOOL, False),
        ("tokenizer.chat_template", GGUF_STRING, TEMPLATE)]
    infos, data = [], b""
    for name, shape, content in tensors(GGUF_NAMES):
        infos.append(gguf_string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), 0, len(data)))
        data += content + bytes(-len(content) % GGUF_ALIGNMENT)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(pairs))
    head += b"".join(gguf_pair(*pair) for pair in pairs) + b"".join(infos)
    with open(path, "wb") as file:
        file.write(head + bytes(-len(head) % GGUF_ALIGNMENT) + data)


def write_safetensors(path):
    header, data = {}, b""
    for name, shape, content in tensors(MLX_NAMES):
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def write_mlx(directory):
    os.makedirs(directory, exist_ok=True)
    write_safetensors(os.path.join(directory, "model.safetensors"))
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    files = {
        "config.json": {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
            "num_hidden_layers": LAYERS, "intermediate_size": INNER, "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS, "rms_norm_eps": 1e-5, "vocab_size": VOCABULARY,
            "rope_theta": 10000.0, "max_position_embeddings": CONTEXT, "tie_word_embeddings": False,
            "bos_token_id": END, "eos_token_id": END, "torch_dtype": "float32"},
        "tokenizer.json": {
            "version": "1.0", "truncation": None, "padding": None,
            "added_tokens": [{"id": END, "content": "</s>", "single_word": False, "lstrip": False, "rstrip": False,
                              "normalized": False, "special": True}],
            "normalizer": None, "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": {**{name: i for i, name in enumerate(byte_names())}, "</s>": END}, "merges": []}},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "model_max_length": CONTEXT,
            "clean_up_tokenization_spaces": False, "chat_template": TEMPLATE}}
    for name, content in files.items():
        with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
            json.dump(content, file)
