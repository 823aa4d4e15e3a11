"""Make a small part of the committed results again, and compare: one random seed of what.yaml, about a minute.

    make results-quick

On another processor or with other versions of the libraries sums are rounded differently, and two trainings on the same
rows differ by 3 points of accuracy (a standard deviation). So what must agree is the mean over the methods, within 4 points;
with the same versions and one torch thread all of it agrees.
"""
import subprocess, sys
from pathlib import Path

import pandas as pd
import yaml

HERE, OUT = Path(__file__).resolve().parent, Path(sys.argv[1] if len(sys.argv) > 1 else 'runs/again')


def main():
    plan = yaml.safe_load((HERE/'what.yaml').read_text())
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT.parent/f'{OUT.name}.yaml').write_text(yaml.safe_dump(plan | dict(seeds=[0]), sort_keys=False))
    subprocess.run([sys.executable, '-m', 'llm2llm', 'grid', '--config', str(OUT.parent/f'{OUT.name}.yaml'), '--out', str(OUT)], check=True)
    old, new = (pd.read_csv(p).set_index('cell') for p in (HERE/'raw/what/cells.csv', OUT/'cells.csv'))
    both = new.join(old.add_suffix(' before'))[['method', 'test %', 'test % before', 'train_rows', 'train_rows before']]
    print(both.to_string(index=False))
    same = (both['test %'] == both['test % before']).sum()
    off = both['test %'].mean()-both['test % before'].mean()
    print(f"{same} of {len(both)} methods to the row as committed; the mean differs by {off:+.1f} points")
    if abs(off) > 4: sys.exit('again.py: the results are not those that are committed')


if __name__ == '__main__': main()
