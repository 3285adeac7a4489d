#!/usr/bin/env python3
"""The operations of `vcycle bench` in PyTorch, on the shapes and by the rules of the lines that it wrote.

    vcycle bench gemm --threads 2 --json ours.jsonl
    python torch_ops.py ours.jsonl [--compile] [--rounds 5] [--seconds 1]

Each case in the file is measured once, however many lines it has: in its precision, on its device, with its threads. Prints a
line of JSON with the same keys for each. As there: random operands, as many sets as there (`sets`) take turns so that none
is still in the caches, one round that warms up, then rounds over all sets until both --rounds and --seconds are reached;
seconds are those of the operation alone, on cuda between events of the stream.

What PyTorch does for each, at its best:
- gemm: `torch.mm` into an output that is there, rows padded as ours; the gradient of a weight to f32 also from bf16 where it can;
- attention: `scaled_dot_product_attention` on Q, K and V as columns of one buffer; its backward pass;
- layernorm: `layer_norm`; its backward pass and, as ours has it, the sum with the gradient of the residual stream;
- cross-entropy: loss and backward pass, of bf16 logits in f32 as under autocast. The gradient has memory of its own, where
  ours takes that of the logits;
- adamw: fused AdamW on one flat parameter, in bf16 with the copy. Neither the clipping nor the decay mask, which ours has.
--compile runs attention, layernorm and cross-entropy through `torch.compile`; the others are single calls.
"""
import argparse, json, os, statistics, sys, time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("cases", help="lines of `vcycle bench ... --json`")
parser.add_argument("--compile", action="store_true")
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--seconds", type=float, default=1)
args = parser.parse_args()
if args.rounds < 1:
    sys.exit("error: --rounds is at least 1")

NEEDED = ("bench", "case", "shape", "sizes", "device", "threads", "precision", "sets", "flops", "bytes")
KEPT = ("bench", "case", "shape", "sizes", "mark", "device", "threads", "precision", "sets", "flops", "bytes")


def read_cases():
    """Cases of the file, each once, in order."""
    cases = {}
    try:
        lines = open(args.cases).read().splitlines()
    except OSError as error:
        sys.exit(f"error: {args.cases}: {error.strerror}")
    for number, line in enumerate(lines, 1):
        try:
            case = json.loads(line)
        except ValueError:
            sys.exit(f"error: {args.cases}, line {number}: no JSON")
        if not isinstance(case, dict) or case.get("bench") in ("step", "multilevel"):
            sys.exit(f"error: {args.cases}, line {number}: no operation; steps are measured by torch_step.py, "
                     "multilevel by multilevel_published.py")
        missing = [key for key in NEEDED if key not in case]
        if missing:
            sys.exit(f"error: {args.cases}, line {number}: no {missing[0]!r}; is it a line of `vcycle bench`?")
        if case["device"] not in ("cpu", "cuda") or case["precision"] not in ("f32", "bf16"):
            sys.exit(f"error: {args.cases}, line {number}: PyTorch has no {case['device']} in {case['precision']}")
        key = tuple(str(case[k]) for k in ("bench", "case", "shape", "device", "threads", "precision"))
        cases.setdefault(key, case)
    if not cases:
        sys.exit(f"error: {args.cases}: no cases")
    return list(cases.values())


cases = read_cases()
# What the pools of threads are made for; fewer are asked for below.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(max(1, max(c["threads"] for c in cases)))

import torch
import torch.nn.functional as F


class Operands:
    def __init__(self, case):
        self.device = case["device"]
        self.float = torch.bfloat16 if case["precision"] == "bf16" else torch.float32

    def random(self, *dims, dtype=None):
        """Uniform in -1..1."""
        return torch.rand(dims, device=self.device).mul_(2).sub_(1).to(dtype or self.float)

    def rows(self, rows, width, pad, dtype=None):
        """A matrix whose rows are padded to a multiple of `pad` elements."""
        return self.random(rows, -(-width // pad) * pad, dtype=dtype)[:, :width]


# Each of these makes a set of operands: what runs before, outside of the clock, and what is measured, on its result.
nothing = lambda: None


def gemm(make, case, name):
    m, n, k = case["sizes"]
    tied = case.get("mark") == "tied"
    pad = 128 if tied else 8
    x, dy = lambda: make.rows(m, k, 8), lambda: make.rows(m, n, pad)
    weight = lambda dtype=None: make.rows(n, k, 8, dtype) if tied else make.rows(k, n, 8, dtype)
    if name == "forward":
        a, b, out = x(), weight(), dy()
        b = b.T if tied else b
    elif name == "dx":
        a, b, out = dy(), weight(), x()
        b = b if tied else b.T
    else:
        a, b, out = x(), dy(), weight(torch.float32)
        a, b = (b.T, a) if tied else (a.T, b)
        if make.float == torch.bfloat16:
            if make.device == "cuda":
                return nothing, lambda _: torch.mm(a, b, out_dtype=torch.float32)
            out = out.to(torch.bfloat16)
    return nothing, lambda _: torch.mm(a, b, out=out)


def halves(forward, inputs, dout, name, after=lambda gradients: None):
    """The forward pass, or the backward pass of one that ran outside of the clock."""
    if name == "forward":
        return nothing, lambda _: forward(*inputs)
    return lambda: forward(*inputs), lambda out: after(torch.autograd.grad(out, inputs, dout))


def attention(make, case, name):
    b, h, t, d = case["sizes"]
    causal = case.get("mark") != "full"
    fused = make.random(b, t, 3 * h * d)
    inputs = [z.view(b, t, h, d).transpose(1, 2).requires_grad_() for z in fused.split(h * d, dim=2)]
    dout = make.random(b, t, h, d).transpose(1, 2)
    return halves(attend[causal], inputs, dout, name)


attend = {causal: lambda q, k, v, causal=causal: F.scaled_dot_product_attention(q, k, v, is_causal=causal)
          for causal in (False, True)}


def layernorm(make, case, name):
    rows, width = case["sizes"]
    inputs = [make.random(rows, width), make.random(width), make.random(width)]
    for t in inputs:
        t.requires_grad_()
    stream = make.random(rows, width)
    return halves(norm, inputs, make.random(rows, width), name, lambda gradients: stream.add_(gradients[0]))


norm = lambda x, weight, bias: F.layer_norm(x, x.shape[-1:], weight, bias, 1e-5)


def cross_entropy(make, case, name):
    rows, vocab = case["sizes"]
    logits = make.random(rows, vocab).requires_grad_()
    labels = torch.randint(0, vocab, (rows,), device=make.device)
    return nothing, lambda _: torch.autograd.grad(entropy(logits, labels), logits)


entropy = lambda logits, labels: F.cross_entropy(logits.float(), labels)


def adamw(make, case, name):
    (count,) = case["sizes"]
    param = torch.nn.Parameter(make.random(count, dtype=torch.float32) * 0.1)
    param.grad = make.random(count, dtype=torch.float32) * 0.01
    optimizer = torch.optim.AdamW([param], lr=1e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, fused=True)
    copy = torch.empty_like(param, dtype=torch.bfloat16) if make.float == torch.bfloat16 else None

    def update(_):
        optimizer.step()
        if copy is not None:
            copy.copy_(param.detach())

    return nothing, update


BENCHES = {"gemm": gemm, "attention": attention, "layernorm": layernorm, "cross-entropy": cross_entropy, "adamw": adamw}
if args.compile:
    attend = {causal: torch.compile(f) for causal, f in attend.items()}
    norm, entropy = torch.compile(norm), torch.compile(entropy)


def clocked(device, before, run):
    """Seconds of `run`, or the events around it."""
    out = before()
    if device == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run(out)
        end.record()
        return begin, end
    begin = time.perf_counter()
    run(out)
    return time.perf_counter() - begin


def one_round(device, sets):
    times = [clocked(device, *one) for one in sets]
    if device == "cuda":
        torch.cuda.synchronize()
        times = [begin.elapsed_time(end) / 1e3 for begin, end in times]
    return times


def measure(case):
    torch.set_num_threads(max(1, case["threads"]))
    torch.manual_seed(1)
    make = Operands(case)
    sets = [BENCHES[case["bench"]](make, case, case["case"]) for _ in range(case["sets"])]
    one_round(case["device"], sets)
    times, rounds, begin = [], 0, time.perf_counter()
    while rounds < args.rounds or time.perf_counter() - begin < args.seconds:
        times += one_round(case["device"], sets)
        rounds += 1
    median = statistics.median(times)
    low, _, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    print(json.dumps({
        **{key: case.get(key) for key in KEPT},
        "peer": "torch_" + ("compile_" if args.compile else "eager_") + case["precision"], "version": torch.__version__,
        "runs": len(times), "ms_median": median * 1e3, "ms_best": min(times) * 1e3, "spread": (high - low) / median,
        "gflops": case["flops"] / median / 1e9, "gb_per_s": case["bytes"] / median / 1e9,
    }), flush=True)


for case in cases:
    if case["bench"] not in BENCHES:
        sys.exit(f"error: {args.cases}: {case['bench']!r} is no operation that PyTorch is measured in")
    measure(case)
