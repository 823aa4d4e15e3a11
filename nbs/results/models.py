"""What the language models of these pages are, to the byte.

    python nbs/results/models.py SmolLM2-135M-Instruct=FILE.gguf …

Writes size, digest and number types of each file to `raw/models.json`.
"""
import json, sys
from collections import Counter
from hashlib import file_digest
from pathlib import Path

from gguf import GGUFReader

RAW = Path(__file__).with_name('raw') / 'models.json'


def about(name, path):
    "A file's line"
    with path.open('rb') as f: sha = file_digest(f, 'sha256').hexdigest()
    numbers = Counter()
    for tensor in GGUFReader(path).tensors: numbers[tensor.tensor_type.name] += int(tensor.n_elements)
    return dict(name=name, bytes=path.stat().st_size, sha256=sha, numbers=dict(numbers.most_common()))


def main():
    named = [word.split('=', 1) for word in sys.argv[1:]]
    found = [about(name, Path(path)) for name, path in named]
    RAW.write_text(json.dumps(found, indent=1) + '\n')
    print(json.dumps(found, indent=1))


if __name__ == '__main__': main()
