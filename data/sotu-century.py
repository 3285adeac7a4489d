"""Makes sotu-century.{train,valid}.tsv.zst of sotu.txt.zst: sentences of the addresses with year and century.

    cd data && python3 sotu-century.py        (needs the program zstd)

Every fifth address of a century is held out whole, so no address is on both sides. Of each address come up to 8 sentences of
60 to 160 characters, evenly spread over it. Centuries: 1800s and 1900s.
"""

import re
import subprocess

text = subprocess.run(["zstd", "-dcq", "sotu.txt.zst"], check=True, capture_output=True).stdout.decode()
sides, seen = {"train": [], "valid": []}, {}
for address in re.split(r"^== ", text, flags=re.M)[1:]:
    head, body = address.split("\n", 1)
    year = int(head.split()[0])
    century = f"{year // 100}00s"
    # Of the others there are few addresses.
    if century not in ("1800s", "1900s"):
        continue
    seen[century] = seen.get(century, 0) + 1
    sentences = [" ".join(s.split()) for s in re.split(r"(?<=[.!?])\s+(?=[A-Z])", body)]
    sentences = [s for s in sentences if 60 <= len(s) <= 160]
    count = min(8, len(sentences))
    chosen = [sentences[i * len(sentences) // count] for i in range(count)]
    side = sides["valid" if seen[century] % 5 == 0 else "train"]
    side.extend(f"{year}\t{century}\t{s}\n" for s in chosen)
for side, rows in sides.items():
    content = "year\tcentury\tsentence\n" + "".join(rows)
    out = f"sotu-century.{side}.tsv.zst"
    subprocess.run(["zstd", "-q", "-f", "-19", "-o", out], input=content.encode(), check=True)
    print(out, len(rows), sum("\t1800s\t" in row for row in rows))
