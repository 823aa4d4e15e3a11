"`llm2llm compare`: a new user's path, a cap on the whole, a kill, a run that is there"
import json, os, signal, subprocess, sys

import pytest
from stub_server import Stub

from llm2llm.cli.main import main
from llm2llm.core import SettingError
from llm2llm.grid.compare import Compare
from llm2llm.grid.run import LLM2LLM
from llm2llm.mini.mini import MiniTeacher, mini_intent, mini_student
from llm2llm.store.folder import content_digest
from llm2llm.teachers.api import APITeacher

SHORT = dict(seeds=2, rounds=1, embeddings=None)


def student(): return mini_student(num_train_epochs=1)


def test_own_rows_without_test_rows(tmp_path, capsys, monkeypatch):
    "A CSV, a command, an answer; the same command again trains nothing and says the same"
    monkeypatch.chdir(tmp_path)
    task = mini_intent(n_seed=28)
    rows = ''.join(f'"{r.question}",{task.gold(r)}\n' for r in task.seed_rows)
    (tmp_path / 'mine.csv').write_text('text,intent\n' + rows)
    words = 'compare --task mine.csv --task.question text --task.answer intent --student.num_train_epochs 1 --teacher eda'.split()
    words += '--seeds 2 --rounds 1 --arms yardsticks,plain,LLM2LLM'.split()
    assert main(words) == 0
    first = capsys.readouterr().out
    assert first.index('planned') < first.index('fold 1/2, 1/') < first.index('- Use ')
    page = (tmp_path / 'runs/mine-compare/compare.html').read_text()
    assert 'There are no test rows' in page and '<svg' in page
    seeds = {q['id']: q['question'] for q in map(json.loads, (tmp_path / 'runs/mine-compare/seed_0/LLM2LLM/seed.jsonl').read_text().splitlines())}
    asked = json.loads((tmp_path / 'runs/mine-compare/compare.json').read_text())['arms']['LLM2LLM']['splits'][0]['right']
    assert len(seeds) == len(asked) == 14 and not {*seeds} & {*asked}   # the teacher was given these rows alone
    before = (tmp_path / 'runs/mine-compare/compare.json').read_bytes()
    monkeypatch.setattr('llm2llm.student.student.Student.train', None)
    assert main(words) == 0
    assert (tmp_path / 'runs/mine-compare/compare.json').read_bytes() == before
    assert capsys.readouterr().out.split('- Use')[1] == first.split('- Use')[1]


def test_a_cap_is_one_for_the_whole_comparison(tmp_path):
    "Seeds and arms share it; what it forbids is left out and said, and the teacher's own answers are whole or not there"
    task = mini_intent(n_seed=14, n_test=20)
    with Stub() as server:
        teacher = APITeacher('stub', server.url, price=(100, 100), max_usd=.8, response_format='json')
        verdict = Compare(task, student(), teacher, tmp_path / 'c', tune=False, arms=['LLM2LLM', 'random', 'teacher'], **SHORT).fit(verbose=False)
    spent = sum(r.usd for its in verdict.results.values() for r in its.values())
    assert 0 < spent <= .8
    assert verdict.notes == ('The cap of $0.8 allows for 1 of 2 splits.',)


def test_killed(tmp_path):
    "After a kill the same call ends with the answers of one that was not killed"
    how = SHORT | dict(arms=['plain', 'LLM2LLM'], tune=False)
    code = f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r}); from test_compare import *\n"
    code += f"Compare(mini_intent(n_seed=28, n_test=20), student(), MiniTeacher(), sys.argv[1], **{how}).fit()"
    run = [sys.executable, '-u', '-c', code, tmp_path / 'killed']
    with subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        for line in process.stdout:
            if ' plain:' in line: break
        process.send_signal(signal.SIGKILL)
    task = mini_intent(n_seed=28, n_test=20)
    for name in ('killed', 'whole'): Compare(task, student(), MiniTeacher(), tmp_path / name, **how).fit(verbose=False)
    found = [json.loads((tmp_path / name / 'compare.json').read_text()) for name in ('killed', 'whole')]
    right = [{arm: [s['right'] for s in its['splits']] for arm, its in f['arms'].items()} for f in found]
    assert right[0] == right[1] and [*right[0]] == ['plain', 'LLM2LLM']


def test_a_run_that_is_there(tmp_path):
    "It is the arm of its seed, is not trained again and not changed"
    task, folder = mini_intent(n_seed=28, n_test=20), tmp_path / 'run'
    LLM2LLM(task, student(), MiniTeacher(), folder, rounds=1).fit(verbose=False)
    before = content_digest(folder)
    verdict = Compare(task, student(), MiniTeacher(), tmp_path / 'c', run=folder, arms=['LLM2LLM'], **SHORT).fit(verbose=False)
    assert (tmp_path / 'c/seed_0/LLM2LLM').resolve() == folder.resolve() and content_digest(folder) == before
    assert [*verdict.results['LLM2LLM']] == [0, 1]
    with pytest.raises(SettingError, match='must be a finished run'):
        Compare(task, student(), MiniTeacher(), tmp_path / 'd', run=tmp_path / 'none', **SHORT)
