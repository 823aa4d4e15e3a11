"The page of promises names tests that exist, and two promises are kept here that no other file has a place for."
import ast, re, socket
from dataclasses import replace

from huggingface_hub import constants

from conftest import ROOT
from llm2llm import LLM2LLM
from llm2llm.cli.main import main
from llm2llm.mini.mini import MiniTeacher, mini_student, mini_task


def test_each_promise_names_a_test_that_exists():
    text = (ROOT / 'nbs/promises.qmd').read_text(encoding='utf-8')
    rows = [line.split(' | ') for line in text.splitlines() if line.startswith('| ')][1:]
    assert len(rows) > 20 and {len(row) for row in rows} == {4}
    for promise, where, tests, _ in rows:
        named = re.findall(r'`(\w+\.py)::(\w+)`', tests)
        assert named and len(named) == tests.count('::'), promise
        for file, name in named:
            tree = ast.parse((ROOT / 'tests' / file).read_text(encoding='utf-8'))
            assert name in [f.name for f in tree.body if isinstance(f, ast.FunctionDef)], f'{file}::{name}'
        for page in re.findall(r'\]\(([^)]*)\)', where): assert (ROOT / 'nbs' / page).is_file(), page


def test_test_rows_choose_nothing(tmp_path):
    "Other test rows: the same training rows, answers and choice; and the picked round alone is asked them"
    task, found = mini_task(n_seed=24, n_dev=16, n_test=20), []
    for name, test in dict(one=task.test, other=mini_task(n_seed=24, n_dev=16, n_test=40).test[20:]).items():
        run = LLM2LLM(replace(task, test=test), mini_student(num_train_epochs=2), MiniTeacher(), tmp_path / name, rounds=1, decontaminate=False)
        run.fit(verbose=False)
        folder, rounds = run.folder, range(2)
        assert [bool(folder.answers(r, 'test')) for r in rounds] == [r == run.final.picked_round for r in rounds]
        found.append([run.final.picked_round, *(f(r) for r in rounds for f in (folder.train_rows, folder.answers))])
    assert found[0] == found[1] and run.final.pick == 'dev'


def test_nothing_asks_the_network(tmp_path, monkeypatch, capsys):
    def refuses(*args): raise AssertionError(f'the network was asked: {args[1:] or args}')

    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setattr(socket, 'getaddrinfo', refuses)
    monkeypatch.setattr(socket.socket, 'connect', refuses)
    run = str(tmp_path / 'run')
    line = 'run --task mini-gsm --task.n_seed 8 --task.n_test 8 --rounds 1 --student.lora_r 2 --student.num_train_epochs 1'
    for words in ([*line.split(), '--output_dir', run], ['report', run], ['ledger', run], ['predict', run, '--ask', '1 + 1?'],
                  ['export', run], ['share', run, 'me/rows']):
        assert main(words) == 0, capsys.readouterr().err
