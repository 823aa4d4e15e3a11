"Many runs: two engines with the same bytes, a grid that is killed and resumes, cells that fail while the rest finishes."

import hashlib, json, os, shutil, signal, sys, time

import pandas as pd
import psutil
import pytest

import warm

PLAN = dict(
    common={
        'student': 'mini',
        'student.num_train_epochs': 2.0,
        'task.n_seed': 12,
        'task.n_test': 40,
        'rounds': 1,
        'select_round_by': 'last',
    },
    vary=dict(task=['mini-gsm']),
    seeds=2,
    methods={
        'plain': dict(teacher='none'),
        'LLM2LLM': None,
        'random': dict(select='random', match_run='LLM2LLM'),
    },
)
CELLS = {f'mini-gsm/seed_{s}/{m}' for s in (0, 1) for m in ('plain', 'LLM2LLM', 'random')}
DIFFERS = {'log.jsonl', '.lock'}   # seconds are in the first
# Its workers are forked from it, with the libraries that it has loaded; a user's begin with nothing, as those of
# `test_each_worker_has_a_gpu_of_its_own` and `test_from_the_shell` do.
DRIVER = (
    "import sys,json,importlib,warnings\nfrom joblib.externals.loky.backend.context import set_start_method\n"
    "from llm2llm.grid.cells import read_plan\nfrom llm2llm.grid.grid import grid\n"
    "plan,out,make,how,start = sys.argv[1:]\nmodule,name = make.split(':')\nset_start_method(start)\n"
    "warnings.filterwarnings('ignore', '`fork` start method')\n"
    "grid(read_plan(json.loads(plan)), out, getattr(importlib.import_module(module), name), **json.loads(how))\n"
)


def call(plan, out, make='llm2llm.cli.run:make_run', start='fork', **how):
    return [sys.executable, '-c', DRIVER, json.dumps(plan), str(out), make, json.dumps(dict(workers=1) | how), start]


def content(out, cells=CELLS):
    "Cell to its files' names and digests"
    files = lambda c: {
        str(p.relative_to(out / c)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted((out / c).rglob('*'))
        if p.is_file() and p.name not in DIFFERS
    }
    return {c: files(c) for c in sorted(cells)}


def logs(out, cells=CELLS):
    return {c: [json.loads(l) for l in (out / c / 'log.jsonl').read_text().splitlines()] for c in cells}


def base_trainings(out, cells=CELLS):
    "For each random seed how many first trainings were made, and how many taken over"
    lines = [
        (c.split('/')[1], 'taken_from' in l)
        for c, ls in logs(out, cells).items()
        for l in ls
        if l.get('phase') == 'train' and l['round'] == 0
    ]
    return {
        s: [sum(1 for x, taken in lines if (x, taken) == (s, t)) for t in (False, True)]
        for s in sorted({c.split('/')[1] for c in cells})
    }


@pytest.fixture(scope='module')
def whole(tmp_path_factory, run):
    "A grid that nothing interrupted, by one process"
    out = tmp_path_factory.mktemp('grid')/'study'
    return out, run(*call(PLAN, out, workers=1))


def test_every_cell_is_there(whole):
    out, res = whole
    assert res.stderr == '' and '\x1b' not in res.stdout
    assert [l.split()[0] for l in res.stdout.splitlines()] == [f'{i}/6' for i in range(1, 7)]
    table = pd.read_csv(out/'cells.csv').set_index('cell')
    assert {*table.index} == CELLS and (table['state'] == 'done').all()
    for c in CELLS:
        final = json.loads((out/c/'final.json').read_text())['scores']['test']
        assert (table.loc[c, 'test_correct'], table.loc[c, 'test_n']) == (final['correct'], final['n'])
    a, b = (
        json.loads((out / f'mini-gsm/seed_0/{m}/round_00/metrics.json').read_text())
        for m in ('LLM2LLM', 'random')
    )
    assert (
        a['kept']
        and table.loc['mini-gsm/seed_0/random', 'train_rows'] == 12 + b['kept']
        and b['requested'] == a['kept']
    )


def test_the_first_training_is_made_once(whole):
    assert base_trainings(whole[0]) == dict(seed_0=[1, 2], seed_1=[1, 2])


def test_a_cell_is_what_the_command_makes(whole, tmp_path, run):
    "The command in the table, in another folder: the same bytes, with nothing taken over"
    out, _ = whole
    cell = 'mini-gsm/seed_1/LLM2LLM'
    line = pd.read_csv(out/'cells.csv').set_index('cell').loc[cell, 'command']
    words = line.split()
    words[words.index('--output_dir')+1] = str(tmp_path/cell)
    run(*words)
    a, b = content(out, [cell])[cell], content(tmp_path, [cell])[cell]
    assert {k: v for k, v in a.items() if k != 'cell.json'} == {
        k: v for k, v in b.items() if not k.startswith('report.')
    }


def test_the_same_call_does_nothing(whole, run):
    out, _ = whole
    before, stamps = content(out), {p: p.stat().st_mtime_ns for c in CELLS for p in (out/c).rglob('*')}
    assert run(*call(PLAN, out)).stdout == ''
    assert content(out) == before and stamps == {
        p: p.stat().st_mtime_ns for c in CELLS for p in (out / c).rglob('*')
    }


def test_more_seeds_run_only_what_is_new(whole, tmp_path, run):
    shutil.copytree(whole[0], tmp_path / 'study')
    res = run(*call(PLAN | dict(seeds=[0, 1, 2], methods=dict(plain=dict(teacher='none'))), tmp_path / 'study'))
    assert (
        res.stdout.splitlines()[0].startswith('3/3 mini-gsm/seed_2/plain done')
        and len(res.stdout.splitlines()) == 1
    )


def test_ray_gives_the_same_bytes(whole, tmp_path, run):
    "And a task that dies takes only its own cell with it"
    pytest.importorskip('ray', reason='the package ray is not installed')
    out = tmp_path/'study'
    (tmp_path / 'dies.py').write_text(
        'import os\ndef make(words):\n    if words["output_dir"].endswith("dies"): os.kill(os.getpid(), 9)\n'
        '    from llm2llm.cli.run import make_run\n    return make_run(words)\n'
    )
    plan = PLAN | dict(seeds=1, methods=dict(dies=dict(teacher='none', match_run='plain')) | PLAN['methods'])
    res = run(
        *call(plan, out, 'dies:make', ray='local'),
        PYTHONPATH=f'{tmp_path}:{os.environ.get("PYTHONPATH", "")}',
    )
    cells = {c for c in CELLS if 'seed_0' in c}
    assert content(out, cells) == content(whole[0], cells)
    assert base_trainings(out, cells) == dict(seed_0=[1, 2])
    ended = [
        l.split()[1] for l in res.stdout.splitlines() if '/4 ' in l[:4]
    ]  # Ray has a line of its own about the dead task
    assert sorted(ended) == sorted([*cells, 'mini-gsm/seed_0/dies'])
    assert 'mini-gsm/seed_0/dies failed: its task ended: WorkerCrashedError' in res.stdout
    assert not list(out.rglob('*.partial')) and '/tmp' not in json.dumps(logs(out, cells))


def test_killed_and_called_again(whole, tmp_path):
    "Killed or interrupted as results come, and its workers with it; the last call gives the bytes of a grid that nothing interrupted"
    out, ends = tmp_path/'study', []
    for how, mark, workers in (
        (signal.SIGKILL, 'seed_*/plain/round_00/student', 2),
        (signal.SIGINT, 'seed_*/LLM2LLM/round_01/student', 1),
    ):
        p = warm.Popen(
            call(PLAN, out, workers=workers),
            stdout=warm.DEVNULL,
            stderr=warm.DEVNULL,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        children = set()
        while p.poll() is None and not list((out / 'mini-gsm').glob(mark)):
            children |= {*psutil.Process(p.pid).children(recursive=True)}
            time.sleep(0.02)
        p.send_signal(how)
        ends.append(p.wait(60))
        assert not psutil.wait_procs(children, timeout=20)[1], 'a worker outlived its parent'
    assert ends[0] == -signal.SIGKILL and ends[1] != 0 and not list(out.rglob('error.json'))
    warm.run(call(PLAN, out, workers=1), check=True, stdout=warm.DEVNULL)
    assert content(out) == content(whole[0])
    assert all(
        made <= 1 for made, _ in base_trainings(out).values()
    )  # a line of the log may be what the kill cost


def test_what_fails_is_kept_and_the_rest_is_run(tmp_path, run):
    "A file that is missing, a student that is none, and a cell that matches a failed one; tried again when that is mended"
    (tmp_path/'student').mkdir()
    own = dict(question='q', answer='a', dev=False)
    rows = {name: dict(task=own | dict(seed_rows=f'{name}.csv')) for name in ('good', 'gone')}
    plan = dict(
        common=dict(student=dict(num_train_epochs=1), teacher='none'),
        vary=dict(rows=rows),
        methods=dict(
            plain=dict(), broken=dict(student=str(tmp_path / 'student')), matched=dict(match_run='broken')
        ),
    )
    table = 'q,a\nhow much?,price\nhow many?,number\nwhat cost?,price\nwhat count?,number\n'
    (tmp_path/'good.csv').write_text(table)
    res = run(*call(plan, tmp_path/'out', workers=1), cwd=tmp_path)
    states = lambda: pd.read_csv(tmp_path/'out/cells.csv').set_index('cell')['state'].to_dict()
    assert states() == {
        f'{c}/seed_0/{m}': 'done' if (c, m) == ('good', 'plain') else 'failed'
        for c in ('good', 'gone')
        for m in ('plain', 'broken', 'matched')
    }
    error = lambda c: json.loads((tmp_path/'out'/c/'error.json').read_text())
    assert (
        error('gone/seed_0/plain')['error'] == "gone.csv: no such file; did you mean 'good.csv'?"
        and 'config.json' in error('good/seed_0/broken')['error']
    )
    assert (
        error('good/seed_0/matched')['error'] == 'good/seed_0/broken, whose budget this cell matches, failed'
    )
    assert str(tmp_path) not in ''.join(
        p.read_text() for p in (tmp_path / 'out').rglob('error.json')
    ).replace(str(tmp_path / 'student'), '')
    assert (
        len(res.stdout.splitlines()) == 6 and 'gone/seed_0/plain failed: gone.csv: no such file' in res.stdout
    )
    (tmp_path/'gone.csv').write_text(table)
    res = run(*call(plan, tmp_path/'out', workers=1), cwd=tmp_path)
    assert (
        states()['gone/seed_0/plain'] == 'done'
        and not (tmp_path / 'out/gone/seed_0/plain/error.json').exists()
    )
    assert 'good/seed_0/plain' not in res.stdout


def test_a_log_of_the_users_is_not_written_to(tmp_path, run):
    (tmp_path / 'says.py').write_text('def make(words):\n    print("hello")\n    raise RuntimeError("alive")\n')
    plan, out = dict(common=dict(task='mini-gsm', teacher='none'), seeds=1, methods=dict(plain=None)), tmp_path/'out'
    env = dict(PYTHONPATH=f'{tmp_path}:{os.environ.get("PYTHONPATH", "")}')
    out.mkdir()
    (out / 'output.log').write_text('mine\n')
    refused = run(*call(plan, out, 'says:make'), status=1, **env)
    assert 'output.log is no older page of this command' in refused.stderr
    assert [p.name for p in out.iterdir()] == ['output.log'] and (out/'output.log').read_text() == 'mine\n'
    (out/'output.log').unlink()
    for _ in range(2): run(*call(plan, out, 'says:make'), **env)
    assert (out / 'output.log').read_text() == 'What the workers of `llm2llm grid` print:\nhello\nhello\n'
    (out / 'output.log').write_text('of an older version\n')
    run(*call(plan, out, 'says:make'), **env)


def test_a_worker_that_dies_takes_one_cell_with_it(tmp_path, run):
    "The next cell is run by another; here it only says so"
    (tmp_path / 'dies.py').write_text(
        'import os\ndef make(words):\n    if words["seed"] == 0: os.kill(os.getpid(), 9)\n    raise RuntimeError("alive")\n'
    )
    plan = dict(common=dict(task='mini-gsm', teacher='none'), seeds=2, methods=dict(plain=None))
    res = run(
        *call(plan, tmp_path / 'out', 'dies:make', workers=1),
        PYTHONPATH=f'{tmp_path}:{os.environ.get("PYTHONPATH", "")}',
    )
    first, second = res.stdout.splitlines()
    assert (
        first.startswith('1/2 seed_0/plain failed: its process ended')
        and second == '2/2 seed_1/plain failed: RuntimeError: alive'
    )
    error = json.loads((tmp_path/'out/seed_0/plain/error.json').read_text())['error']
    assert 'its process ended with SIGKILL(-9)' in error and 'output.log' in error


def test_each_worker_has_a_gpu_of_its_own(tmp_path, run):
    "What a worker sees of two GPUs; here there are none, and the cells fail saying so"
    (tmp_path / 'sees.py').write_text(
        'import os, time\ndef make(words):\n    time.sleep(.3)\n    raise RuntimeError(os.environ["CUDA_VISIBLE_DEVICES"])\n'
    )
    run(
        *call(dict(seeds=4, methods=dict(plain=None)), tmp_path / 'out', 'sees:make', 'loky', workers=None),
        CUDA_VISIBLE_DEVICES='5,6',
        PYTHONPATH=f'{tmp_path}:{os.environ.get("PYTHONPATH", "")}',
    )
    said = [json.loads(p.read_text())['error'] for p in sorted((tmp_path/'out').rglob('error.json'))]
    assert len(said) == 4 and {*said} == {'RuntimeError: 5', 'RuntimeError: 6'}


def test_one_grid_at_a_time_in_a_folder(tmp_path, run):
    first = warm.Popen(call(PLAN, tmp_path/'out'), stdout=warm.DEVNULL, stderr=warm.DEVNULL)
    while not (tmp_path/'out/.lock').exists(): time.sleep(.02)
    time.sleep(.5)
    res = run(*call(PLAN, tmp_path/'out'), status=1)
    first.kill()
    first.wait()
    assert 'another process is working in this folder' in res.stderr


def test_from_the_shell(tmp_path, run):
    (tmp_path / 'g.yaml').write_text(
        'common: {student: {num-train-epochs: 1}, task.n-seed: 4, teacher: none}\nvary:\n  task: [mini-gsm]\nseeds: [3]\nmethods:\n  plain:\n'
    )
    res = run('llm2llm', 'grid', '--config', 'g.yaml', '--dry_run', cwd=tmp_path)
    assert (
        '--seed 3 --output_dir runs/g/mini-gsm/seed_3/plain' in res.stdout
        and '1 cells, 1 to run' in res.stdout
        and not (tmp_path / 'runs').exists()
    )
    res = run('llm2llm', 'grid', '--config', 'g.yaml', '--workers', '1', cwd=tmp_path)
    assert (
        '1 of 1' in res.stdout
        and 'runs/g/cells.csv' in res.stdout
        and (tmp_path / 'runs/g/mini-gsm/seed_3/plain/final.json').exists()
    )
    for bad, says in (
        ('plain: {selct: random}', "mini-gsm/seed_3/plain: unknown setting 'selct'; did you mean 'select'?"),
        ('plain: {select: radom}', "did you mean 'random'?"),
        ('plain: {match_run: plane}', "unknown method (match_run) 'plane'; did you mean 'plain'?"),
        ('plain: {student: {lr: 1}}', 'it is called learning_rate'),
    ):
        (tmp_path / 'bad.yaml').write_text((tmp_path / 'g.yaml').read_text().replace('plain:', bad))
        err = run('llm2llm', 'grid', '--config', 'bad.yaml', cwd=tmp_path, status=2).stderr
        assert says in err and len(err.splitlines()) == 1
    (tmp_path / 'g.yaml').write_text(
        (tmp_path / 'g.yaml').read_text().replace('[mini-gsm]', '{gone: {task: {name: snips, data: gone}}}')
    )
    res = run('llm2llm', 'grid', '--config', 'g.yaml', '--dry_run', cwd=tmp_path)
    assert (
        '1 cells, 1 to run' in res.stdout and 'task.data: gone is not there (gone/seed_3/plain)' in res.stdout
    )
    err = run('llm2llm', 'grid', '--config', 'g.yaml', cwd=tmp_path, status=2).stderr
    assert '1 of 2 cells failed' in err


def test_a_plan_of_too_many_cells_is_refused_at_once(tmp_path, run):
    (tmp_path / 'g.yaml').write_text('common: {task: mini-gsm, teacher: none}\nseeds: 1000000\nmethods: {plain: {}}\n')
    err = run('llm2llm', 'grid', '--config', 'g.yaml', '--dry_run', cwd=tmp_path, status=2, timeout=60).stderr
    assert 'the plan has 1,000,000 cells, and a grid at most 10,000' in err


def test_a_dry_run_says_what_the_cells_lack(tmp_path, run):
    (tmp_path / 'g.yaml').write_text(
        'common: {task: {name: mini-gsm, n-seed: 4}}\nseeds: 2\nmethods:\n'
        '  taught: {teacher: {kind: api, model: some-model, key-env: SURELY_UNSET}}\n  big: {student: ./nowhere, teacher: none}\n'
    )
    said = run('llm2llm', 'grid', '--config', 'g.yaml', '--dry_run', cwd=tmp_path).stdout
    assert (
        'set SURELY_UNSET in the environment' in said
        and '(seed_0/taught and 1 more cells)' in said
        and 'student: ./nowhere is not there' in said
    )
    (tmp_path / 'g.yaml').write_text(
        'common: {task: mini-gsm}\nmethods:\n  taught: {teacher: {kind: api, model: m, api_key: sk-abcdefgh12345678}}\n'
    )
    said = run('llm2llm', 'grid', '--config', 'g.yaml', '--dry_run', cwd=tmp_path, status=2).stderr
    assert 'a key never stands in a file' in said and 'sk-abc' not in said


def test_the_money_of_all_cells_has_a_cap(tmp_path, run):
    from stub_server import Stub

    teach = dict(
        kind='api', model='stub', response_format='text', price=(1000, 1000), max_usd=100, concurrency=1
    )
    with Stub() as s:
        plan = dict(
            common=dict(
                task=dict(name='mini-gsm', n_seed=4, n_test=8),
                student=dict(num_train_epochs=1.0),
                rounds=1,
                select='all',
                select_round_by='last',
                near_duplicate_threshold=0,
            ),
            seeds=3,
            methods={'plain': dict(teacher='none'), 'LLM2LLM': dict(teacher=teach | dict(base_url=s.url))},
        )
        go = lambda cap: run(*call(plan, tmp_path/'g', max_usd=cap, workers=1), OPENAI_API_KEY='none')
        read = lambda: pd.read_csv(tmp_path/'g/cells.csv').set_index('cell')
        go(100)
        found = read()
        state = found[found['method'] == 'LLM2LLM']['state'].to_list()
        usd = found['usd'].sum()
        assert (
            state == ['done', 'failed', 'failed']
            and 0 < usd < 100
            and (found[found['method'] == 'plain']['state'] == 'done').all()
        )
        error = json.loads((tmp_path/'g/seed_1/LLM2LLM/error.json').read_text())['error']
        assert error.startswith(
            f'max_usd = 100 for the grid: ${usd:.2f} are spent, and this cell may spend 100'
        )
        asked = s.stats()['requests']
        go(100)   # nothing more can be afforded, and nothing is asked
        assert s.stats()['requests'] == asked
        go(1000)
        assert (read()['state'] == 'done').all()
