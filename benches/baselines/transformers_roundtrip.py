"""Checkpoints between vcycle and Hugging Face transformers, in both directions.

Needs: pip install torch transformers safetensors

    python transformers_roundtrip.py make DIR
        Writes a small GPT2LMHeadModel (2 layers, 2 heads, width 32, vocabulary 97, 32 positions) to DIR as
        config.json and model.safetensors, with random weights everywhere, biases and layer norms included, from a
        fixed seed; and DIR/expected.json:
            {"input_ids": 2 x 16 token ids, "shape": [2, 16, 97], "logits": the logits, flattened in row-major order}

    python transformers_roundtrip.py check DIR IDS.json
        Opens DIR, written by vcycle, with GPT2LMHeadModel.from_pretrained and compares its logits with those in
        IDS.json, written by vcycle: {"input_ids": [[...]], "logits": [[[...]]]}. Prints the largest absolute
        difference. Exits with 1 if it is above 2e-5 or DIR does not hold exactly the weights of the model, with 2 if
        an input is malformed.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

TOLERANCE = 2e-5


def logits_of(model, input_ids):
    model.eval()
    with torch.no_grad():
        return model(input_ids=input_ids).logits


def make(folder):
    config = GPT2Config(
        vocab_size=97,
        n_positions=32,
        n_embd=32,
        n_head=2,
        n_layer=2,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config)
    generator = torch.Generator().manual_seed(20240607)
    with torch.no_grad():
        # In order of name, so that the weights do not depend on the order of the modules.
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if ".ln_" in name and name.endswith(".weight"):
                parameter.copy_(1.0 + 0.2 * noise)
            else:
                parameter.copy_(0.15 * noise)
    model.save_pretrained(folder)
    input_ids = torch.randint(0, config.vocab_size, (2, 16), generator=generator)
    logits = logits_of(model, input_ids)
    expected = {
        "input_ids": input_ids.tolist(),
        "shape": list(logits.shape),
        "logits": logits.flatten().tolist(),
    }
    Path(folder, "expected.json").write_text(json.dumps(expected) + "\n")
    print(f"wrote {folder}")
    return 0


def check(folder, ids_file):
    try:
        given = json.loads(Path(ids_file).read_text())
        input_ids = torch.tensor(given["input_ids"], dtype=torch.long)
        theirs = torch.tensor(given["logits"], dtype=torch.float64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"{ids_file}: {error!r}", file=sys.stderr)
        return 2
    model, info = GPT2LMHeadModel.from_pretrained(folder, output_loading_info=True)
    wrong = {kind: keys for kind, keys in info.items() if keys}
    if wrong:
        print(f"{folder}: {wrong}", file=sys.stderr)
        return 1
    ours = logits_of(model.float(), input_ids).double()
    # The flat form of expected.json is accepted too.
    if theirs.numel() != ours.numel() or (theirs.dim() > 1 and theirs.shape != ours.shape):
        print(f"{ids_file}: logits of shape {list(theirs.shape)}, expected {list(ours.shape)}", file=sys.stderr)
        return 2
    difference = (theirs.reshape(ours.shape) - ours).abs().max().item()
    print(f"max abs difference {difference:.3e}")
    # A NaN compares false with everything, and must fail.
    return 0 if math.isfinite(difference) and difference <= TOLERANCE else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(dest="mode", required=True)
    maker = modes.add_parser("make", help="write a random model and its logits")
    maker.add_argument("dir")
    checker = modes.add_parser("check", help="compare the logits of a model written by vcycle")
    checker.add_argument("dir")
    checker.add_argument("ids")
    arguments = parser.parse_args()
    if arguments.mode == "make":
        return make(arguments.dir)
    return check(arguments.dir, arguments.ids)


if __name__ == "__main__":
    sys.exit(main())
