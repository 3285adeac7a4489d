#!/usr/bin/env python3
"""Writes fuzz/seeds/: small valid inputs for every target. Usage: fuzz/seeds.py path/to/vcycle"""

import binascii
import gzip
import json
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib

HERE = pathlib.Path(__file__).resolve().parent
SEEDS = HERE / "seeds"
VCYCLE = pathlib.Path(sys.argv[1]).resolve()
MASK = (1 << 64) - 1


def seed(target, name, content):
    """Writes a seed of a target."""
    content = content.encode() if isinstance(content, str) else content
    folder = SEEDS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def texts(*parts):
    """Joins several texts into one input, as `texts` in harness.rs splits it."""
    return b"\n%%\n".join(p.encode() if isinstance(p, str) else p for p in parts)


def parts(*all):
    """Joins several files into one input, as `parts` in harness.rs splits it."""
    all = [p.encode() if isinstance(p, str) else p for p in all]
    return b"".join(struct.pack("<I", len(p)) + p for p in all)


class Fingerprint:
    """The hash of src/data/fingerprint.rs."""

    def __init__(self):
        self.state = 0

    def word(self, word):
        state = ((self.state ^ word) * 0x9E3779B97F4A7C15) & MASK
        self.state = state ^ (state >> 32)

    def add(self, field):
        self.word(len(field))
        for at in range(0, len(field), 8):
            self.word(int.from_bytes(field[at : at + 8], "little"))

    def hex(self):
        state = self.state
        self.word(0)
        self.word(0)
        text = f"{self.state:016x}"
        self.state = state
        return text


def token_shards():
    def ours(version, vocab, tokens, starts=(), continues=0):
        width = 2 if vocab <= 1 << 16 else 4
        head = b"VCYCTOK1" + struct.pack("<IIQQ", version, width, vocab, len(tokens))
        if version == 2:
            head += struct.pack("<QI", len(starts), continues)
        body = b"".join(t.to_bytes(width, "little") for t in tokens)
        if version == 2:
            body += bytes(-len(body) % 8) + b"".join(struct.pack("<Q", s) for s in starts)
        return head.ljust(64, b"\0") + body

    seed("token_shard", "v1", ours(1, 300, [i * i % 300 for i in range(20)]))
    seed("token_shard", "v1-wide", ours(1, 70000, [69999, 1, 2, 3, 4, 65536]))
    seed("token_shard", "v2", ours(2, 50, list(range(15)), [0, 4, 9]))
    seed("token_shard", "v2-continued", ours(2, 50, list(range(9)), [2, 7], 1))
    seed("token_shard", "v2-middle", ours(2, 70000, list(range(6)), [], 1))
    header = struct.pack("<III", 20240520, 1, 4).ljust(1024, b"\0")
    seed("token_shard", "llm-c", header + struct.pack("<4H", 1, 2, 50256, 3))
    header = struct.pack("<III", 20240801, 7, 3).ljust(1024, b"\0")
    seed("token_shard", "llm-c-wide", header + struct.pack("<3I", 1, 128000, 3))
    seed("token_shard", "nanogpt", struct.pack("<8H", *range(8)))


def image_files():
    images = struct.pack(">4B3I", 0, 0, 8, 3, 2, 3, 2) + bytes(range(12))
    labels = struct.pack(">4BI", 0, 0, 8, 1, 2) + bytes([1, 0])
    seed("idx", "two", parts(images, labels))
    record = bytes(i % 251 for i in range(3072))
    seed("cifar", "ten", b"\0" + b"\3" + record + b"\x09" + record[::-1])
    seed("cifar", "hundred", b"\2" + b"\x13\x63" + record)
    seed("image_csv", "digits", b"\0" + b"0,4,16,8,3\n1, 2,3,4,0\r\n\n5,6,7,8,1")
    seed("image_csv", "white", b"\4" + b"255,0,0,255,0,9,1,2,3,65535\n" + b"0,0,0,0,0,0,0,0,0,1\n")
    seed("image_csv", "label-first", b"\x09" + b'label,1x1,1x2,2x1,2x2\n"3",0,255,7.0,8\n1,2,3,4,5\n')

    def shard(channels, height, width, pixels, labels, names):
        names = json.dumps(names).encode()
        count = len(labels)
        labels = b"".join(struct.pack("<i", n) for n in labels)
        size = channels * height * width
        print_ = Fingerprint()
        for i in range(count):
            print_.add(pixels[i * size : (i + 1) * size])
        print_.add(labels)
        print_.add(names)
        head = b"VCYCIMG1" + struct.pack("<6IQ", 1, channels, height, width, len(json.loads(names)), len(names), count)
        return (head + print_.hex().encode()).ljust(64, b"\0") + pixels + labels + names

    seed("prepared", "grey", b"\2" + shard(1, 2, 3, bytes(range(18)), [0, 1, 0], ["a", "b"]))
    seed("prepared", "colour", b"\2" + shard(3, 4, 4, bytes(range(96)), [1, 0], ["one", "\u00e9"]))


def png(width, height, depth, colour, rows, extra=b"", interlace=0):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", binascii.crc32(kind + content))

    head = struct.pack(">2I5B", width, height, depth, colour, 0, 0, interlace)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def jpeg(components, frame=0xC0):
    """A JPEG with one block of zeros per component. Each Huffman table has a single one-bit code."""

    def segment(marker, content):
        return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content

    ids = bytes(range(1, components + 1))
    table = bytes([1] + [0] * 15 + [0])
    out = b"\xff\xd8" + segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0") + segment(0xDB, bytes([0]) + bytes([2] * 64))
    out += segment(frame, struct.pack(">BHHB", 8, 8, 8, components) + b"".join(bytes([i, 0x11, 0]) for i in ids))
    out += segment(0xC4, bytes([0x00]) + table) + segment(0xC4, bytes([0x10]) + table)
    scan = bytes([components]) + b"".join(bytes([i, 0]) for i in ids)
    if frame == 0xC2:
        # First the DC coefficients of all components, then the AC coefficients of each component.
        out += segment(0xDA, scan + bytes([0, 0, 0])) + bytes([0xFF >> components])
        for i in ids:
            out += segment(0xDA, bytes([1, i, 0, 1, 63, 0])) + bytes([0x7F])
    else:
        out += segment(0xDA, scan + bytes([0, 63, 0])) + bytes([0xFF >> (2 * components)])
    return out + b"\xff\xd9"


def pictures():
    rgb = b"".join(b"\0" + bytes(range(9)) for _ in range(2))
    seed("image_folder", "rgb.png", b"\3" + png(3, 2, 8, 2, rgb))
    seed("image_folder", "grey16.png", b"\x83" + png(2, 2, 16, 0, b"\1\0\1\0\2" + b"\2\0\3\0\4"))
    seed("image_folder", "rgba.png", b"\6" + png(1, 2, 8, 6, b"\0\1\2\3\4" + b"\4\5\6\7\x08"))

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", binascii.crc32(kind + content))

    palette = chunk(b"PLTE", bytes(range(12))) + chunk(b"tRNS", b"\0\x80")
    seed("image_folder", "palette.png", b"\0" + png(9, 1, 2, 3, b"\0\x1b\x1b\x40", palette))
    seed("image_folder", "interlaced.png", b"\3" + png(2, 2, 8, 0, b"\0\1\0\2\0\3\4", b"", 1))
    seed("image_folder", "grey.jpg", b"\4" + jpeg(1))
    seed("image_folder", "colour.jpg", b"\x84" + jpeg(3))
    seed("image_folder", "cmyk.jpg", b"\x84" + jpeg(4))
    seed("image_folder", "progressive.jpg", b"\4" + jpeg(3, 0xC2))


def plain_texts():
    lines = "".join(f"= {i}\nsome w\u00f6rds\n--\n" for i in range(6))
    seed("text", "pieces", b"\0\0" + lines.encode())
    seed("text", "prefix", b"\1\2" + lines.encode())
    seed("text", "separator", b"\1\3" + lines.replace("\n", "\r\n").encode())
    seed("text", "mark", b"\0\4" + "\ufeff\u00e9a\n\u00e9b\n\u00e9c".encode())
    jsonl = "".join(json.dumps({"id": [i, None], "text": f"line {i} \u00e9\n", "x": {"a": "]"}}) + "\n" for i in range(4))
    seed("text", "jsonl", b"\2\0" + jsonl.encode())
    odd = '{"text": "a\\ud83e\\udd8a", "x": NaN}\n\n{ "x" : -1.5e3, "text" : "\\u00e9", "text": "b" }\r\n{"text": ""}\n{"text":"c"}'
    seed("text", "odd-jsonl", b"\0\0" + odd.encode())
    seed("text", "json", b"\3\0" + b'[\n{"text": "a"},\n{"text": "b"}]\n')
    packed = gzip.compress(b"some text\n" * 5, mtime=0)
    seed("text", "one.gz", b"\5\0" + packed)
    seed("text", "two.gz", b"\5\0" + packed + packed + bytes(20))
    seed("text", "disguised", b"\7\0" + packed)
    deflate = zlib.compress(b"some text\n" * 3)[2:-4]
    seed("text", "members", b"\5\1" + deflate + deflate)
    stored = zlib.compress("caf\u00e9 \u65e5\u672c\n".encode(), 0)[2:-4]
    seed("text", "padded", b"\5\x09" + stored + stored)
    for name, text in [("short", b"some text\n"), ("long", b"".join(b"%d words\n" % i for i in range(60)))]:
        zst = subprocess.run(["zstd", "-19", "--check", "-c"], input=text, capture_output=True, check=True).stdout
        seed("text", f"{name}.zst", b"\6\0" + zst)
    skip = struct.pack("<II", 0x184D2A50, 3) + b"abc"
    frame = b"\x28\xb5\x2f\xfd\x20\x04" + (1 | 4 << 3).to_bytes(3, "little") + b"abc\n"
    seed("text", "frames.zst", b"\6\0" + skip + frame + frame)


def labelled():
    seed("labelled", "two-columns", b"\0" + b"a good one\tyes\na bad one\tno\nmore of it\tyes\n")
    seed("labelled", "names", b"\1" + b"\xef\xbb\xbfid\tsentence\tlabel\n1\tsome words\t0\n2\tother words\t1\n3\tb\t1.0\n")
    seed("labelled", "pairs", b"\2" + b"a\tb\tentailment\r\nc\td\t-\r\ne\tf\tneutral\r\ng\n")
    seed("labelled", "scores", b"\3" + b"label\ta\tb\n1.5\tone\ttwo\n-3e1\tthree\tfour\n")
    seed("labelled", "classes", b"\4" + b"text\tlabel\nfine\tyes\nnot fine\tno\n")
    seed("labelled", "one-column", b"\6" + b"a\nb\na\n")
    seed("labelled", "minus", b"\7" + b"1\ta\n-\tb\n1.0\tc\n\td\n")


CONFIG = """seed = 1
[model]
family = "gpt"
layers = 2
heads = 2
head_size = 4
context = 16
dropout = 0.1
init_std = 0.02
[data]
text = "text.txt"
tokenizer = "byte"
held_out_every = 10
document_prefix = "line"
[train]
batch = 2
eval_every = 5
eval_batches = 1
recompute = false
[optimizer]
beta1 = 0.9
beta2 = 0.95
eps = 1e-8
weight_decay = 0.1
clip = inf
[rules]
width = "exact"
depth = "identity"
shares = "random"
[[levels]]
[levels.before]
steps = 1
lr = 1e-3
warmup = 1
decay = "wsd"
floor = 0.1
cooldown = 0.5
[levels.train]
steps = 1
lr = 1e-3
[[levels]]
layers = 1
width_scheme = [[0, 1]]
depth_scheme = [[0, 1]]
alpha = 0.5
[levels.train]
steps = 1
lr = 1e-3
[scratch]
steps = 1
lr = 1e-3
"""


def configs():
    seed("run_config", "gpt", CONFIG)
    seed("run_config", "set", texts(CONFIG, "train.batch=4", "levels.0.train.lr=1e-2", "scratch=none", "data.text=other.txt"))
    bert = """[model]
family = "bert"
layers = 1
heads = 1
head_size = 4
context = 16
norm = "pre"
[data]
prepared = "folder"
[masking]
pack = "documents"
next_sentence = true
[train]
batch = 4
accumulate = 2
eval_every = 5
keep_best = true
[[levels]]
train = { steps = 1, lr = 1e-3 }
"""
    seed("run_config", "bert", bert)
    deit = """[model]
family = "deit"
layers = 1
heads = 1
head_size = 4
image = 8
patch = 4
distilled = true
drop_path = 0.1
[data.images.train.files]
format = "idx"
images = "a"
labels = "b"
[data.images.valid]
channels = 1
[data.images.valid.files]
format = "folder"
folder = "c"
size = 8
[augment]
flip = 0.5
padding = 1
[augment.randaugment]
[augment.mixing]
[view]
mean = [0.5]
std = [0.5]
[train]
batch = 2
eval_every = 5
label_smoothing = 0.1
[[levels]]
train = { steps = 1, lr = 1e-3 }
"""
    seed("run_config", "deit", deit)
    task = """[model]
family = "bert"
layers = 1
heads = 1
head_size = 4
context = 16
[data]
tokenizer = "byte"
[data.task]
train = "a.tsv"
valid = "b.tsv"
sentence = 1
label = "label"
classes = ["no", "yes"]
[train]
batch = 2
eval_every = 5
[[levels]]
train = { steps = 1, lr = 1e-3 }
"""
    seed("run_config", "task", task)


def measurements():
    step = {"bench": "step", "peer": "torch_eager_f32", "version": "1.2", "device": "cpu", "shape": "char", "threads": 2}
    step |= {"params": 1048576, "ms_median": 5.0, "tokens_per_s": 400.0, "gflops": 20.0, "rss_mb": 130, "rss_at_start_mb": 20}
    step |= {"ms_by_operation": {"linear": 3.0, "attention": 1.0}, "round": 1}
    gemm = {"bench": "gemm", "peer": "vcycle_f32", "version": "0.1.0", "device": "cpu", "shape": "4x4x4", "threads": 1}
    gemm |= {"precision": "f32", "case": "small", "ms_median": 0.5, "flops": 128.0, "bytes": 1e6, "gflops": 2.5, "gb_per_s": 1.0}
    gemm |= {"percent_of_roofline": 50.0, "roofline_gflops": 100.0, "roofline_gb_per_s": 20.0, "times_mean_nothing": False}
    other = step | {"peer": "vcycle_f32", "ms_median": 4.0, "label": "new", "joules_per_step": 2.0}
    seed("records", "step", b"\1" + "".join(json.dumps(line) + "\n" for line in [step, other]).encode())
    seed("records", "gemm", b"\1" + "".join(json.dumps(line) + "\n" for line in [gemm, gemm | {"peer": "numpy", "variant": "v"}]).encode())


def safetensor(tensors, about=None):
    header, data = {}, b""
    if about:
        header["__metadata__"] = about
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    header = json.dumps(header, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data


def f32(*values):
    return struct.pack(f"<{len(values)}f", *values)


def gpt2_tensors():
    shapes = {"wte.weight": [3, 2], "wpe.weight": [2, 2], "ln_f.weight": [2], "ln_f.bias": [2]}
    for part, shape in [("ln_1", [2]), ("ln_2", [2]), ("attn.c_attn", [2, 6]), ("attn.c_proj", [2, 2]), ("mlp.c_fc", [2, 2]), ("mlp.c_proj", [2, 2])]:
        shapes[f"h.0.{part}.weight"] = shape
        shapes[f"h.0.{part}.bias"] = shape[-1:]
    tensors = {}
    for name, shape in shapes.items():
        count = 1
        for n in shape:
            count *= n
        tensors[f"transformer.{name}"] = ("F32", shape, f32(*[0.5] * count))
    return tensors


def weights():
    half = struct.pack("<2e", 1.0, -2.0)
    seed("safetensors", "types", safetensor({"a": ("F32", [2], f32(1, 2)), "b": ("F16", [1, 2], half), "c": ("BF16", [1], b"\x80\x3f")}))
    seed("safetensors", "buffers", safetensor({"h.0.attn.bias": ("U8", [2], b"\1\0"), "w": ("F64", [], struct.pack("<d", 0.5))}, {"format": "pt"}))
    seed("safetensors", "empty", safetensor({"none": ("F32", [0, 3], b"")}))
    whole = gpt2_tensors()
    seed("hub", "one-file", parts(b"\0" + safetensor(whole)))
    names = sorted(whole)
    one, two = ({n: whole[n] for n in part} for part in (names[:5], names[5:]))
    index = {"metadata": {}, "weight_map": {n: "1.safetensors" if n in one else "2.safetensors" for n in names}}
    seed("hub", "shards", parts(b"\1" + json.dumps(index).encode(), b"\4" + safetensor(one), b"\5" + safetensor(two)))
    wrapped = {f"_orig_mod.module.{n}": t for n, t in whole.items()}
    seed("hub", "wrapped", parts(b"\4" + safetensor(wrapped)))
    described = pickle(ordered({"w": tensor("0", "Float", 6, 0, [3, 2], [1, 3])}))
    archive = zip_({"archive/data.pkl": described, "archive/data/0": f32(*range(6)), "archive/version": b"3\n"})
    seed("hub", "torch", parts(b"\2" + archive))
    index = {"weight_map": {"w": "1.bin"}}
    seed("hub", "torch-shards", parts(b"\3" + json.dumps(index).encode(), b"\6" + archive))
    seed("torch", "stored", b"\0" + archive)
    packed = zip_({"data.pkl": described, "data/0": f32(*range(6))}, True)
    seed("torch", "deflated", b"\0" + packed)
    facts = pickle(b"}" + text("little_endian") + b"\x88s")
    magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03."
    old = ordered({"w": tensor("0", "Float", 6, 0, [3, 2], [1, 3], b"N")})
    keys = pickle(b"](" + text("0") + b"e")
    seed("torch", "old", b"\0" + magic + facts + pickle(old) + keys + struct.pack("<Q", 6) + f32(*range(6)))
    both = {"w": tensor("0", "Float", 6, 2, [2, 2], [1, 2]), "b": tensor("1", "Half", 4, 1, [3], [1])}
    both = pickle(b"}" + text("state_dict") + ordered(both) + b"s" + text("epoch") + b"K\x03s")
    seed("torch", "wrapped", b"\1" + parts(both, f32(*range(6)), bytes([0, 60] * 4)))
    seed("torch", "one", b"\1" + parts(described, f32(*range(6))))


def text(text):
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def integer(n):
    return b"\x8a\x08" + struct.pack("<q", n)


DICT = b"ccollections\nOrderedDict\n)R"


def tensor(key, kind, count, offset, shape, strides, view=b""):
    sizes = lambda all: b"(" + b"".join(map(integer, all)) + b"t"
    storage = b"((" + text("storage") + f"ctorch\n{kind}Storage\n".encode() + text(key) + text("cpu") + integer(count) + view + b"tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + storage + integer(offset) + sizes(shape) + sizes(strides) + b"\x89" + DICT + b"tR"


def ordered(entries):
    return DICT + b"(" + b"".join(text(name) + value for name, value in entries.items()) + b"u"


def pickle(body):
    return b"\x80\x02" + body + b"."


def zip_(entries, deflate=False):
    out, directory = b"", b""
    for name, content in entries.items():
        name = name.encode()
        packed = zlib.compress(content)[2:-4] if deflate else content
        facts = bytes([20, 0, 0, 0, 8 if deflate else 0, 0, 0, 0, 0, 0])
        facts += struct.pack("<3I2H", zlib.crc32(content), len(packed), len(content), len(name), 0)
        directory += b"PK\1\2\x14\0" + facts + bytes(10) + struct.pack("<I", len(out)) + name
        out += b"PK\3\4" + facts + name + packed
    end = struct.pack("<2H2IH", len(entries), len(entries), len(directory), len(out), 0)
    return out + directory + b"PK\5\6\0\0\0\0" + end


def hub_configs():
    gpt2 = {"model_type": "gpt2", "vocab_size": 11, "n_positions": 5, "n_embd": 4, "n_head": 2, "n_layer": 1, "n_inner": None}
    gpt2 |= {"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "resid_pdrop": 0.1, "tie_word_embeddings": True, "bos_token_id": 0}
    seed("hub", "gpt2", parts("\x0c" + json.dumps(gpt2)))
    bert = {"model_type": "bert", "architectures": ["BertForSequenceClassification"], "vocab_size": 11, "hidden_size": 4}
    bert |= {"num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8, "hidden_act": "gelu", "pad_token_id": 0}
    bert |= {"id2label": {"0": "no", "1": "yes", "2": "\u00e9"}, "label2id": {"no": 0, "yes": 1, "\u00e9": 2}, "norm": "pre"}
    seed("hub", "bert", parts("\x0c" + json.dumps(bert)))
    seed("hub", "bert-masked", parts("\x0c" + json.dumps(bert | {"architectures": ["BertForMaskedLM"]})))
    vit = {"model_type": "vit", "architectures": ["ViTForImageClassification"], "image_size": 8, "patch_size": [4, 4], "hidden_size": 4}
    vit |= {"num_attention_heads": 1, "num_hidden_layers": 1, "intermediate_size": 8, "num_labels": 3, "qkv_bias": True}
    seed("hub", "vit", parts("\x0c" + json.dumps(vit)))
    deit = vit | {"model_type": "deit", "architectures": ["DeiTForImageClassificationWithTeacher"], "id2label": {"0": "a", "1": "b"}}
    deit.pop("num_labels")
    seed("hub", "deit", parts("\x0c" + json.dumps(deit)))
    timm = {"architecture": "vit_tiny_patch16_224", "num_classes": 2, "label_names": ["a", "b"], "model_args": {"depth": 1, "mlp_ratio": 2.5}}
    timm |= {"pretrained_cfg": {"input_size": [3, 224, 224], "num_classes": 2}}
    seed("hub", "timm-hub", parts("\x0c" + json.dumps(timm)))
    arguments = {"img_size": 8, "patch_size": 4, "embed_dim": 4, "depth": 1, "num_heads": 1, "mlp_ratio": 4, "num_classes": 2}
    seed("hub", "timm", parts("\x0c" + json.dumps(arguments | {"class_token": True, "global_pool": "token"})))


def records():
    scheme = {"width_scheme": [[0, 1], [2, 3]], "depth_scheme": [[0], [1]], "head_size": 4}
    rules = {"width": "paper", "depth": "copy", "shares": {"kind": "random", "seed": 7}}
    record = {"format": 1, "scheme": scheme, "rules": rules, "parent": {"layers": 4, "heads": 4, "head_size": 4}}
    seed("records", "both", b"\2" + texts(json.dumps(record), json.dumps(scheme)))
    seed("records", "defaults", b"\2" + texts(json.dumps(record | {"scheme": {}, "rules": {}}), '{"width_scheme": null}'))


def added(id, content, special=True, **flags):
    token = {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return token | {"special": special} | flags


def tokenizer_json(**parts_):
    base = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None}
    return json.dumps(base | {"pre_tokenizer": None, "post_processor": None, "decoder": None} | parts_, ensure_ascii=False)


def tokenizers():
    five = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = {w: i for i, w in enumerate(five + ["some", "words", "the", "##s", ",", "a"])}
    pieces = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": words}
    normal = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}
    seed("tokenizer", "wordpiece", "tokenizer.json\n" + tokenizer_json(model=pieces, normalizer=normal, pre_tokenizer={"type": "BertPreTokenizer"},
         decoder={"type": "WordPiece", "prefix": "##", "cleanup": True}, added_tokens=[added(i, w) for i, w in enumerate(five)]))
    vocab = [["<unk>", 0.0], ["\u2581", -1.0], ["s", -2.0], ["\u2581some", -2.5], ["e", -3.0], ["<0x0A>", -4.0]]
    meta = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    normal = {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]}
    seed("tokenizer", "unigram", "tokenizer.json\n" + tokenizer_json(model={"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": True},
         normalizer=normal, pre_tokenizer=meta, decoder={"type": "Sequence", "decoders": [meta, {"type": "ByteFallback"}, {"type": "Fuse"}]}))
    bpe = {"type": "BPE", "dropout": None, "unk_token": "<unk>", "fuse_unk": True, "vocab": {"<unk>": 0, "a": 1, "n": 2, "an": 3, "d": 4, "and": 5},
           "merges": ["a n", "an d"], "ignore_merges": True, "end_of_word_suffix": None, "byte_fallback": False}
    split = {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "\\s+"}, "behavior": "Isolated", "invert": False}, {"type": "Digits", "individual_digits": True}]}
    seed("tokenizer", "bpe", "tokenizer.json\n" + tokenizer_json(model=bpe, pre_tokenizer=split, added_tokens=[added(6, "<a>", True, lstrip=True), added(7, "end", False, single_word=True)],
         truncation={"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0},
         padding={"strategy": {"Fixed": 8}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "a"}))
    level = {"type": "WordLevel", "vocab": {"<unk>": 0, "Some": 1, "words": 2, "<s>": 3, "</s>": 4}, "unk_token": "<unk>"}
    template = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [3], "tokens": ["<s>"]}}}
    seed("tokenizer", "wordlevel", "tokenizer.json\n" + tokenizer_json(model=level, pre_tokenizer={"type": "Whitespace"}, post_processor=template, normalizer={"type": "Strip", "strip_left": True, "strip_right": True}))
    normals = [{"type": t} for t in ["NFD", "StripAccents", "Lowercase", "Nmt"]] + [{"type": "Prepend", "prepend": "_"}]
    pre = [{"type": "CharDelimiterSplit", "delimiter": "-"}, {"type": "Punctuation", "behavior": "MergedWithNext"}, {"type": "UnicodeScripts"}, {"type": "FixedLength", "length": 3}]
    seed("tokenizer", "parts", "tokenizer.json\n" + tokenizer_json(model=level, normalizer={"type": "Sequence", "normalizers": normals}, pre_tokenizer={"type": "Sequence", "pretokenizers": pre},
         decoder={"type": "Strip", "content": " ", "start": 1, "stop": 0}, post_processor={"type": "RobertaProcessing", "sep": ["</s>", 4], "cls": ["<s>", 3], "trim_offsets": True, "add_prefix_space": False}))
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    seed("tokenizer", "bytes", "tokenizer.json\n" + tokenizer_json(model=bpe | {"unk_token": None}, pre_tokenizer=bytes_, decoder=bytes_, post_processor=bytes_))
    vocab = {"a": 0, "n": 1, "d": 2, "an": 3, "and": 4, "\u0120": 5, "\u0120a": 6}
    merges = "#version: 0.2\na n\nan d\n\u0120 a\n"
    beside = ["added_tokens.json\n" + json.dumps({"<a>": 8, "<b>": 9}), "special_tokens_map.json\n" + json.dumps({"additional_special_tokens": ["<a>", {"content": "<b>", "lstrip": True}], "pad_token": "<a>"})]
    end = {"<|endoftext|>": 7}
    seed("tokenizer", "gpt2", texts("vocab.json\n" + json.dumps(vocab | end), "merges.txt\n" + merges, *beside))
    seed("tokenizer", "openai", texts("encoder.json\n" + json.dumps(vocab), "vocab.bpe\n" + merges, "tokenizer_config.json\n" + json.dumps({"add_prefix_space": True})))
    decoder = {"4": {"content": "[MASK]", "lstrip": True, "special": True}, "8": {"content": "<a>", "special": False}}
    seed("tokenizer", "bert", texts("vocab.txt\n" + "\n".join(five + ["some", "words", "##s"]) + "\n", "tokenizer_config.json\n" + json.dumps({"do_lower_case": True, "added_tokens_decoder": decoder})))
    seed("tokenizer", "cased", texts("vocab.txt\n" + "\r\n".join(five + ["Some", "\u00fc"]), "tokenizer_config.json\n" + json.dumps({"do_lower_case": False, "strip_accents": True, "unk_token": {"content": "[UNK]"}})))
    seed("tokenizer", "beside", texts("tokenizer.json\n" + tokenizer_json(model=level, pre_tokenizer={"type": "Whitespace"}), "added_tokens.json\n" + json.dumps({"<a>": 5})))


def runs():
    """Seeds from the files of a real run: metrics, checkpoints and prepared data."""
    with tempfile.TemporaryDirectory() as at:
        at = pathlib.Path(at)
        (at / "text.txt").write_text("".join("abcdefg\n"[i * i % 7 : 8] for i in range(300)))
        config = """[model]
family = "gpt"
layers = 1
heads = 1
head_size = 4
context = 4
[data]
text = "text.txt"
tokenizer = "char"
held_out_every = 10
[train]
batch = 2
eval_every = 2
eval_batches = 1
checkpoint_every = 2
[[levels]]
train = { steps = 4, lr = 1e-2 }
[scratch]
steps = 2
lr = 1e-2
"""
        (at / "run.toml").write_text(config)
        subprocess.run([VCYCLE, "train", "run.toml", "--out", "run", "--device", "cpu"], cwd=at, check=True, capture_output=True)
        run = at / "run"
        read = lambda name: (run / name).read_bytes()
        about = json.loads(read("run.json")) | {"folder": "/tmp", "machine": "a machine", "command": ["vcycle", "train"]}
        seed("records", "run", b"\0" + texts(read("vcycle/metrics.jsonl"), read("scratch/metrics.jsonl"), json.dumps(about), read("config.toml")))
        line = {"stage": 1, "level": 1, "step": 2, "flops": 10, "hardware_flops": 10, "seconds": 0.5}
        lines = [line | {"event": "eval", "valid_loss": 2.5, "tokens": 8, "measures": {"accuracy": 0.5, "f1": 0.25}, "resident_bytes": 5}]
        lines += [line | {"event": "operator", "name": "coalesce", "flops_spent": 3, "alpha": 0.5}, line | {"event": "search", "alpha": 0.5, "tried": []}]
        lines += [line | {"event": "step", "lr": 1e-3, "loss": None, "grad_norm": 1.0}]
        one = "\n".join(map(json.dumps, lines)) + "\n"
        seed("records", "measures", b"\0" + texts(one, one.replace("2.5", "2.25"), "{}", ""))
        seed("records", "cut", b"\0" + texts(one + '{"event": "ev', one))
        checkpoints = sorted((run / "vcycle/checkpoints").iterdir())
        for number, folder in enumerate(checkpoints[-2:]):
            state, tensors = (folder / "state.json").read_bytes(), (folder / "tensors.safetensors").read_bytes()
            end = json.loads(state)["metrics_bytes"]
            seed("checkpoint", f"state-{number}", parts(state, tensors, read("vcycle/metrics.jsonl")[:end], read("config.toml")))
        (at / "long.txt").write_text("".join(f"= {i}\nline\n" for i in range(20)))
        marks = ["--tokenizer", "byte", "--document-prefix", "= ", "--held-out-every", "4", "--shard-tokens", "60"]
        subprocess.run([VCYCLE, "data", "prepare", "long.txt", "--out", "data", *marks], cwd=at, check=True, capture_output=True)
        seed("prepared", "folder", b"\0" + (at / "data/data.json").read_bytes())
        config = config.replace("text.txt", "long.txt").replace("char", "byte").replace("every = 10", "every = 4")
        (at / "long.toml").write_text(config)
        subprocess.run([VCYCLE, "train", "long.toml", "--out", "other", "--device", "cpu"], cwd=at, check=True, capture_output=True)
        cached = next(at.glob("runs/data/long-*/data.json"))
        seed("prepared", "cache", b"\1" + cached.read_bytes())


if SEEDS.exists():
    shutil.rmtree(SEEDS)
for write in [token_shards, image_files, pictures, plain_texts, labelled, configs, measurements, weights, hub_configs, records, tokenizers, runs]:
    write()
print(sum(f.stat().st_size for f in SEEDS.rglob("*") if f.is_file()), "bytes")
