"""Make a small part of the committed results again: one random seed of what.yaml, about a minute.

    make results-quick

Every method must have as many training rows as in the table, and be right on the very same test rows.
With the same versions, one torch thread and the same kind of processor it is. Elsewhere sums are rounded
differently, and
two trainings on the same rows differ by 3 points (a standard deviation); what differs is then named.
"""

import subprocess, sys
from pathlib import Path

import pandas as pd
import yaml

from llm2llm.grid.cells import record

HERE, OUT = Path(__file__).resolve().parent, Path(sys.argv[1] if len(sys.argv) > 1 else 'runs/again')
MADE_BY = ['machine', 'python', 'torch', 'transformers', 'trl', 'peft']


def tables(folder):
    "A row a cell: what it was made by, its training rows, and '1' or '0' for each test row"
    cells, answers = (
        pd.read_csv(folder / f'{f}.csv', dtype={'right': str}).set_index('cell') for f in ('cells', 'answers')
    )
    return cells.join(answers)


def main():
    plan, raw = OUT.parent/f'{OUT.name}.yaml', OUT.parent/f'{OUT.name}_raw'
    OUT.mkdir(parents=True, exist_ok=True)
    plan.write_text(
        yaml.safe_dump(yaml.safe_load((HERE / 'what.yaml').read_text()) | dict(seeds=[0]), sort_keys=False)
    )
    subprocess.run(
        [sys.executable, '-m', 'llm2llm', 'grid', '--config', str(plan), '--output_dir', str(OUT)], check=True
    )
    record(OUT, raw)
    both = tables(raw).join(tables(HERE/'raw/what').add_suffix(' before'))
    both['rows that differ'] = [
        sum(a != b for a, b in zip(new, old, strict=True))
        for new, old in both[['right', 'right before']].values
    ]
    print(
        both[
            ['method', 'test %', 'test % before', 'train_rows', 'train_rows before', 'rows that differ']
        ].to_string(index=False)
    )
    off = both[(both['rows that differ'] > 0) | (both['train_rows'] != both['train_rows before'])]
    if off.empty: return print(f'all {len(both)} methods agree with the committed results on every test row')
    there, here = (both[[f'{name}{end}' for name in MADE_BY]].iloc[0].to_list() for end in (' before', ''))
    made_by = [f'{name} {a} there, {b} here' for name, a, b in zip(MADE_BY, there, here) if a != b]
    sys.exit(
        f"again.py: {len(off)} of {len(both)} methods differ from the committed results; "
        f"{'; '.join(made_by) or 'same machine and versions'}"
    )


if __name__ == '__main__': main()
