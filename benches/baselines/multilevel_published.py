#!/usr/bin/env python3
"""The multi-level operators as their authors published them: the peer of `vcycle bench multilevel`.

    git clone https://github.com/Photooon/Multi-Level-Training-Framework published   # measured at commit 2137c13
    pip install torch==2.13.0 transformers numpy
    python multilevel_published.py --checkout published [--sizes 12,12,768,1024,50257] [--threads 2] [--rounds 5]

Makes a GPT-2 of these sizes (layers, heads, width, context, vocabulary) with random parameters in memory, and half of it in
layers and heads. Each round, after one that warms up, times the published `GPT2Mapper`: `coalesce`, then `decoalesce`, then
`interpolate`. Files and the making of models, which its constructor does, are outside of the clock. Groups are those of its
README, the first half with the second, as by default here.

One line of JSON for each: case `coalesce`; `interpolate`: decoalesce and then interpolate, which here is one pass; and
the two apart. `bytes` counts what has to move, each parameter once.
"""
import argparse, hashlib, json, os, statistics, sys, tempfile, time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--checkout", required=True, help="folder of the published code, with map_tools/mapper.py")
parser.add_argument("--sizes", default="12,12,768,1024,50257")
parser.add_argument("--shape", default="gpt2", help="a name for these sizes, for the lines")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--rounds", type=int, default=5)
args = parser.parse_args()
tools = os.path.join(args.checkout, "map_tools")
source = os.path.join(tools, "mapper.py")
if not os.path.exists(source):
    sys.exit(f"error: --checkout {args.checkout}: no map_tools/mapper.py there; see --help")
sizes = [int(n) for n in args.sizes.split(",")]
if len(sizes) != 5 or min(sizes) < 1 or sizes[0] % 2 or sizes[1] % 2 or sizes[2] != 64 * sizes[1]:
    sys.exit(f"error: --sizes {args.sizes}: L,H,C,T,V with even L and H, and C = 64 H as the published code has it")
if args.threads < 1 or args.rounds < 1:
    sys.exit("error: --threads and --rounds are at least 1")
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(args.threads)

import torch
import transformers
from transformers import GPT2Config, GPT2LMHeadModel

torch.set_num_threads(args.threads)
torch.manual_seed(1)
sys.path.insert(0, tools)
from mapper import GPT2Mapper

L, H, C, T, V = sizes
ALPHA = 0.25


def model(layers, heads):
    config = GPT2Config(n_layer=layers, n_head=heads, n_embd=64 * heads, n_positions=T, vocab_size=V)
    made = GPT2LMHeadModel(config)
    with torch.no_grad():
        for p in made.parameters():
            p.uniform_(-0.1, 0.1)
    return made


def halves(count):
    return [[i, i + count // 2] for i in range(count // 2)]


def mapper(source, target, empty):
    """What the constructor leaves, without its files."""
    made = GPT2Mapper.__new__(GPT2Mapper)
    made.src_dir = made.tgt_dir = made.save_dir = empty
    made.src_model, made.tgt_model = source, target
    made.src_width, made.src_depth = made._get_model_attr(source)
    made.tgt_width, made.tgt_depth = made._get_model_attr(target)
    made.width_scheme, made.depth_scheme = halves(H), halves(L)
    return made


def timed(operator):
    begin = time.perf_counter()
    operator()
    return time.perf_counter() - begin


def restore(target, values):
    """The operators change and share parameters of both models: each round begins with fresh ones."""
    for p, value in zip(target.parameters(), values):
        p.data = value.clone()


big, small, grown = model(L, H), model(L // 2, H // 2), model(L, H)
fresh = [[p.data.clone() for p in m.parameters()] for m in (big, small, grown)]
count = lambda m: sum(p.numel() for p in m.parameters())
moved = {
    "coalesce": 4 * (count(big) + count(small)),
    "interpolate": 4 * (count(small) + 2 * count(big)),
    "decoalesce alone": 4 * (count(small) + count(big)),
    "interpolate alone": 4 * 3 * count(big),
}
seconds = {case: [] for case in moved}
with tempfile.TemporaryDirectory() as empty:
    for round in range(args.rounds + 1):
        for m, values in zip((big, small, grown), fresh):
            restore(m, values)
        coalesce = timed(mapper(big, small, empty).coalesce)
        if (small.transformer.wte.weight.shape, len(small.transformer.h)) != ((V, C // 2), L // 2):
            sys.exit("error: coalesce gave a model of other sizes")
        restore(big, fresh[0])
        decoalesce = timed(mapper(small, grown, empty).decoalesce)
        if grown.transformer.h[L - 1].mlp.c_fc.weight.shape != big.transformer.h[L - 1].mlp.c_fc.weight.shape:
            sys.exit("error: decoalesce gave a model of other sizes")
        blend = mapper(grown, big, empty)
        interpolate = timed(lambda: blend.interpolate(ALPHA))
        if not all(p.isfinite().all() for p in big.parameters()):
            sys.exit("error: interpolate gave numbers that are not finite")
        if round > 0:
            seconds["coalesce"].append(coalesce)
            seconds["decoalesce alone"].append(decoalesce)
            seconds["interpolate alone"].append(interpolate)
            seconds["interpolate"].append(decoalesce + interpolate)
digest = hashlib.sha256(open(source, "rb").read()).hexdigest()[:12]
for case, times in seconds.items():
    median = statistics.median(times)
    low, _, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    print(json.dumps({
        "bench": "multilevel", "case": case, "peer": "published_f32",
        "version": f"mapper.py {digest}, torch {torch.__version__}, transformers {transformers.__version__}",
        "device": "cpu", "shape": args.shape, "sizes": sizes, "threads": args.threads, "precision": "f32",
        "runs": len(times), "ms_median": median * 1e3, "ms_best": min(times) * 1e3, "spread": (high - low) / median,
        "bytes": moved[case], "gb_per_s": moved[case] / median / 1e9, "gflops": None,
    }))
