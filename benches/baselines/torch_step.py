#!/usr/bin/env python3
"""One training step of a GPT-2, BERT or DeiT in PyTorch: the yardstick for the time of a step here (docs/benchmarks.md).

Forward, backward and AdamW on random data, scaled-dot-product attention, biases. GPT: nanoGPT's architecture (pre-LN, tied head,
tanh GELU, causal). BERT: post-LN, erf GELU, no padding, scores of 15 % of the tokens by the tied head. DeiT: pre-LN, erf GELU, patches of
16 x 16, a class token; images come from pinned memory. Prints one JSON line. The yardstick is PyTorch at its best: run it
eager and compiled and take the faster.

    pip install torch==2.13.0 numpy          # any recent release will do; the version is printed
    python torch_step.py --shape char --threads 2 [--compile] [--bf16] [--device cuda] [--seconds 15] [--profile FILE]

Shapes (layers, heads, width, T, batch, vocabulary): char 6 6 384 256 8 65; small 4 4 256 128 16 8192;
gpt2 12 12 768 512 1 50257; gpt2-gpu 12 12 768 1024 32 50257; bert-128 12 12 768 128 128 30522; bert-512 12 12 768 512 32 30522;
deit-b 12 12 768 224 128 1000 (T: the side of an image, vocabulary: classes); or L,H,C,T,B,V, with :bert or :deit behind it.
GFLOP/s counts 6 x (parameters without positions) per token plus 12 x L x T x C for attention (nothing off for the causal mask); of
BERT and DeiT 6 x the parameters of the layers per token, the same for attention, and 6 for each row and weight of the head and for
each weight of the patches.
"""
import argparse, json, os, resource, statistics, time

parser = argparse.ArgumentParser()
parser.add_argument("--shape", default="char")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--compile", action="store_true")
parser.add_argument("--bf16", action="store_true")
parser.add_argument("--device", default="cpu")
parser.add_argument("--seconds", type=float, default=15)
parser.add_argument("--profile", default="")
args = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(args.threads)

import torch
import torch.nn as nn
import torch.nn.functional as F

torch.set_num_threads(args.threads)
torch.manual_seed(1337)
SHAPES = {
    "char": "6,6,384,256,8,65",
    "small": "4,4,256,128,16,8192",
    "gpt2": "12,12,768,512,1,50257",
    "gpt2-gpu": "12,12,768,1024,32,50257",
    "bert-128": "12,12,768,128,128,30522:bert",
    "bert-512": "12,12,768,512,32,30522:bert",
    "deit-b": "12,12,768,224,128,1000:deit",
}
sizes, _, mark = SHAPES.get(args.shape, args.shape).partition(":")
L, H, C, T, B, V = map(int, sizes.split(","))
if mark not in ("", "bert", "deit"):
    parser.error(f"--shape {args.shape}: no mark {mark}; bert or deit")
PATCH, CHANNELS = 16, 3
# Tokens of a sequence: of an image its patches and the class token.
N = 1 + (T // PATCH) ** 2 if mark == "deit" else T
EPS = {"": 1e-5, "bert": 1e-12, "deit": 1e-6}[mark]
SCORED = max(1, T * 15 // 100)
rss = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
rss_at_start = rss()
sync = torch.cuda.synchronize if args.device == "cuda" else (lambda: None)


class Block(nn.Module):
    """A layer: causal with tanh GELU in GPT, norms after the sums in BERT."""

    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = (nn.LayerNorm(C, eps=EPS) for _ in range(2))
        self.attn, self.proj = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.fc, self.out = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

    def attend(self, x):
        b, t, c = x.shape
        q, k, v = (z.view(b, t, H, c // H).transpose(1, 2) for z in self.attn(x).split(C, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=not mark)
        return self.proj(y.transpose(1, 2).contiguous().view(b, t, c))

    def feed(self, x):
        return self.out(F.gelu(self.fc(x), approximate="none" if mark else "tanh"))

    def forward(self, x):
        if mark == "bert":
            x = self.ln_1(x + self.attend(x))
            return self.ln_2(x + self.feed(x))
        x = x + self.attend(self.ln_1(x))
        return x + self.feed(self.ln_2(x))


class Stack(nn.Module):
    """What the models share: layers, and how they begin."""

    def __init__(self):
        super().__init__()
        self.wpe = nn.Embedding(N, C)
        self.h = nn.ModuleList(Block() for _ in range(L))

    def layers(self, x):
        for block in self.h:
            x = block(x)
        return x

    def begin(self):
        for m in self.modules():
            if isinstance(m, (nn.Linear, nn.Embedding)):
                nn.init.normal_(m.weight, 0, 0.02)
        return self


class GPT(Stack):
    def __init__(self):
        super().__init__()
        self.wte, self.ln_f = nn.Embedding(V, C), nn.LayerNorm(C)

    def forward(self, idx, target):
        x = self.layers(self.wte(idx) + self.wpe.weight)
        return F.cross_entropy((self.ln_f(x) @ self.wte.weight.T).view(-1, V), target.view(-1))


class Bert(Stack):
    def __init__(self):
        super().__init__()
        self.wte, self.types = nn.Embedding(V, C), nn.Embedding(2, C)
        self.ln_0, self.ln_f = nn.LayerNorm(C, eps=EPS), nn.LayerNorm(C, eps=EPS)
        self.transform, self.bias = nn.Linear(C, C), nn.Parameter(torch.zeros(V))

    def forward(self, idx, types, at, target):
        x = self.layers(self.ln_0(self.wte(idx) + self.types(types) + self.wpe.weight))
        x = x.view(-1, C)[at]
        x = self.ln_f(F.gelu(self.transform(x)))
        return F.cross_entropy(x @ self.wte.weight.T + self.bias, target)


class Deit(Stack):
    def __init__(self):
        super().__init__()
        self.patch = nn.Linear(CHANNELS * PATCH * PATCH, C)
        self.token, self.ln_f, self.head = nn.Parameter(torch.zeros(1, 1, C)), nn.LayerNorm(C, eps=EPS), nn.Linear(C, V)

    def forward(self, patches, target):
        x = torch.cat((self.token.expand(len(patches), -1, -1), self.patch(patches)), dim=1)
        x = self.layers(x + self.wpe.weight)
        return F.cross_entropy(self.head(self.ln_f(x[:, 0])), target)


model = {"": GPT, "bert": Bert, "deit": Deit}[mark]().begin().to(args.device)
params = sum(p.numel() for p in model.parameters())
groups = [
    {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": 0.1},
    {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
]
optimizer = torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95), fused=True)
loss_of = torch.compile(model) if args.compile else model
autocast = torch.autocast(args.device, dtype=torch.bfloat16, enabled=args.bf16)
on = {"device": args.device}
if mark == "":
    data = torch.randint(0, V, (200_000,), **on)
elif mark == "bert":
    types, first = torch.zeros((B, T), dtype=torch.long, **on), torch.arange(B, **on)[:, None] * T
else:
    patches = torch.randn(B, N - 1, CHANNELS * PATCH * PATCH)
    patches = patches.pin_memory() if args.device == "cuda" else patches


def batch():
    if mark == "bert":
        at = (first + torch.rand((B, T), **on).argsort(1)[:, :SCORED].sort(1).values).view(-1)
        return torch.randint(0, V, (B, T), **on), types, at, torch.randint(0, V, (B * SCORED,), **on)
    if mark == "deit":
        return patches.to(args.device, non_blocking=True), torch.randint(0, V, (B,), **on)
    at = torch.randint(0, len(data) - T - 1, (B,)).tolist()
    return torch.stack([data[i : i + T] for i in at]), torch.stack([data[i + 1 : i + T + 1] for i in at])


def step():
    inputs = batch()
    with autocast:
        loss = loss_of(*inputs)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss


for _ in range(3):
    step()
sync()
if args.profile:
    from torch.profiler import profile

    with profile() as prof:
        for _ in range(3):
            step()
    open(args.profile, "w").write(prof.key_averages().table(sort_by="self_cpu_time_total", row_limit=40))
times, begin = [], time.perf_counter()
while time.perf_counter() - begin < args.seconds or len(times) < 5:
    t0 = time.perf_counter()
    loss = step()
    sync()
    times.append(time.perf_counter() - t0)
median, best = statistics.median(times), min(times)
quartiles = statistics.quantiles(times, n=4, method="inclusive")
flops = B * N * 12 * L * N * C
if mark == "":
    flops += B * T * 6 * (params - T * C)
else:
    flops += B * N * 6 * L * (12 * C * C + 13 * C)
    flops += 6 * B * SCORED * (C * C + V * C) if mark == "bert" else 6 * B * (N * CHANNELS * PATCH * PATCH * C + V * C)
print(json.dumps({
    "bench": "step", "peer": "torch_" + ("compile" if args.compile else "eager") + ("_bf16" if args.bf16 else "_f32"),
    "version": torch.__version__, "device": args.device, "shape": args.shape, "sizes": [L, H, C, T, B, V], "mark": mark or None,
    "threads": args.threads, "precision": "bf16" if args.bf16 else "f32", "params": params,
    "steps": len(times), "ms_median": round(median * 1e3, 3), "ms_best": round(best * 1e3, 3),
    "spread": round((quartiles[2] - quartiles[0]) / median, 4),
    "tokens_per_s": round(B * N / median), "gflops": round(flops / median / 1e9, 1),
    "rss_mb": round(rss()), "rss_at_start_mb": round(rss_at_start), "loss": round(loss.item(), 4),
}))
