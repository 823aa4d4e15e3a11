"What a notebook cannot show: kill -9 and resume, two processes, Ctrl-C, a full disk."
import hashlib, json, random, resource, signal, sys, time
from collections import Counter

import pytest

import warm
from llm2llm.report.cards import dataset_card
from llm2llm.report.record import read_run

FLAGS = [
    '--task',
    'mini-gsm',
    '--student',
    'mini',
    '--teacher',
    'mini',
    '--task.n_seed',
    '12',
    '--task.n_test',
    '40',
    '--rounds',
    '2',
    '--student.num_train_epochs',
    '2',
    '--test_every_round',
]
# A student that memorises its seed rows
MEMORISED = ['--task.n_seed', '8', '--student.num_train_epochs', '15', '--student.learning_rate', '3e-3', '--rounds', '3']
SPREAD = [*MEMORISED, '--rounds', '5', '--per_round', '3', '--max_synthetic_rows', '10']
DIFFERS = {'log.jsonl', 'report.md', 'report.html', '.lock'}  # seconds are in these


def command(out, *more):
    return [sys.executable, '-m', 'llm2llm', 'run', *FLAGS, '--output_dir', str(out), *more]


def content(folder):
    "File name to digest of its bytes, for every result of a run"
    files = [p for p in sorted(folder.rglob('*')) if p.is_file() and p.name not in DIFFERS]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope='module')
def whole(tmp_path_factory, run):
    "A run that nothing interrupted"
    out = tmp_path_factory.mktemp('whole')/'run'
    return out, run(*command(out))


def test_quiet_in_a_pipe(whole):
    out, res = whole
    assert res.stderr == ''
    assert '\r' not in res.stdout and 'round 2:' in res.stdout
    final = json.loads((out/'final.json').read_text())
    assert final['stopped'] == 'rounds done' and final['scores']['test']['n'] == 40


def test_the_same_command_again_does_nothing(whole, run):
    out, _ = whole
    before, log = content(out), (out/'log.jsonl').read_bytes()
    run(*command(out))
    assert content(out) == before and (out/'log.jsonl').read_bytes() == log


def test_killed_at_any_instant(whole, tmp_path):
    "Killed a random moment after each of these results, again and again on the same folder: the same bytes as an uninterrupted run"
    out, _ = whole
    moments, kills = random.Random(0), 0
    for mark in (
        'run.json',
        'round_00/train.jsonl',
        'round_00/student',
        'round_00/candidates.jsonl',
        'round_01/answers.jsonl',
        'round_02/student',
    ):
        p = warm.Popen(command(tmp_path / 'run'), stdout=warm.DEVNULL, stderr=warm.PIPE)
        while p.poll() is None and not (tmp_path / 'run' / mark).exists():
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.3))
        p.kill()
        kills += p.wait() == -signal.SIGKILL
    assert kills >= 4, f'only {kills} of 6 runs were interrupted'
    warm.run(command(tmp_path/'run'), check=True, stdout=warm.DEVNULL)
    assert content(tmp_path/'run') == content(out)


def test_killed_inside_each_kind_of_write(whole, tmp_path):
    "Killed right before the rename that makes a result visible, for every result in turn: the strictest moments there are"
    out, _ = whole
    code = ("import os,sys,signal\n"
            "from llm2llm.cli.main import main\n"
            "real,left = os.replace,[int(sys.argv[1])]\n"
            "def replace(a, b):\n"
            "    left[0] -= 1\n"
            "    if left[0] == 0: os.kill(os.getpid(), signal.SIGKILL)\n"
            "    return real(a, b)\n"
            "os.replace = replace\n"
            "sys.exit(main(sys.argv[2:]))\n")
    for at in (3, 8, 14):
        res = warm.run(
            [sys.executable, '-c', code, str(at), *command(tmp_path / 'run')[3:]],
            stdout=warm.DEVNULL,
            stderr=warm.PIPE,
        )
        assert res.returncode == -signal.SIGKILL, res.stderr.decode()
    warm.run(command(tmp_path/'run'), check=True, stdout=warm.DEVNULL)
    assert content(tmp_path/'run') == content(out)


def test_other_settings_are_refused(whole, run):
    out, _ = whole
    before = content(out)
    res = run(*command(out, '--seed', '5'), status=2)
    assert (
        'seed = 0, and this one has seed = 5' in res.stderr.replace('task.', '') or 'task.rows' in res.stderr
    )
    res = run(*command(out, '--max_per_seed_row', '2'), status=2)
    assert (
        'max_per_seed_row = None, and this one has max_per_seed_row = 2' in res.stderr
        and 'Traceback' not in res.stderr
    )
    assert content(out) == before


def test_two_processes(tmp_path, run):
    first = warm.Popen(
        command(tmp_path / 'run'), stdout=warm.DEVNULL, stderr=warm.PIPE, text=True
    )
    while not (tmp_path/'run'/'run.json').exists():
        assert first.poll() is None, first.stderr.read()
        time.sleep(.05)
    res = run(*command(tmp_path/'run'), status=2)
    assert 'another process is working in this folder' in res.stderr
    first.kill()
    first.wait()


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_says_how_to_resume(number, tmp_path):
    # started in a shell's background, tests would hand on a SIGINT that is ignored
    p = warm.Popen(
        command(tmp_path / 'run'),
        stdout=warm.PIPE,
        stderr=warm.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (tmp_path/'run'/'round_00').exists():
        assert p.poll() is None, p.stderr.read()
        time.sleep(.05)
    p.send_signal(number)
    _, err = p.communicate(timeout=60)
    # a shell shows 130 for both: Python ends itself by the signal where the interrupt met an `exec`, as imports are full of
    assert (
        p.returncode in (128 + number, -signal.SIGINT)
        and 'Resume with: llm2llm run' in err
        and str(tmp_path / 'run') in err
        and 'Traceback' not in err
    )
    assert not list((tmp_path/'run').rglob('*.partial'))


def test_full_disk(whole, tmp_path):
    "A file may not grow past 200 kB, as on a full disk: the error says so, nothing is half-written, and the run resumes later"
    out, _ = whole
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    res = warm.run(command(tmp_path/'run'), preexec_fn=limit, capture_output=True, text=True)
    assert (
        res.returncode == 2 and 'nothing is half-written' in res.stderr and 'Traceback' not in res.stderr
    ), res.stderr
    assert not list((tmp_path/'run').rglob('*.partial'))
    warm.run(command(tmp_path/'run'), check=True, stdout=warm.DEVNULL)
    assert content(tmp_path/'run') == content(out)


def test_a_folder_that_cannot_be_used(tmp_path, run):
    (tmp_path/'file').write_text('')
    res = run(*command(tmp_path/'file'/'run'), status=2)
    assert 'choose another' in res.stderr and 'Traceback' not in res.stderr


RULE = """from llm2llm import Rule

class Short(Rule):
    "Wrong rows, the shortest first"
    def rank(self, row, evidence): return len(row.question)
"""

def test_a_run_resumes_under_its_own_rule_alone(tmp_path, run):
    "A rule in a file of the user's: resumed wherever the file is, refused with other code or another rule"
    for name, source in dict(mine=RULE, other=RULE.replace('return len', 'return -len')).items():
        (tmp_path / f'{name}.py').write_text(source)
    words = [w for w in command(tmp_path/'run') if w != '--test_every_round']
    run(*words, '--select', tmp_path/'mine.py:Short')
    made, log = content(tmp_path/'run'), (tmp_path/'run'/'log.jsonl').read_bytes()
    settings = json.loads((tmp_path/'run'/'run.json').read_text())['settings']
    assert (
        settings['select'] == 'Short'
        and settings['rule']['made_by'] == 'mine.py:Short'
        and str(tmp_path) not in json.dumps(settings)
    )
    (tmp_path/'there').mkdir()
    (tmp_path/'mine.py').rename(tmp_path/'there'/'moved.py')
    run(*words, '--select', 'moved.py:Short', cwd=tmp_path/'there')
    assert content(tmp_path/'run') == made and (tmp_path/'run'/'log.jsonl').read_bytes() == log
    assert 'holds a run with rule.code' in run(*words, '--select', tmp_path/'other.py:Short', status=2).stderr
    told = run(*words, status=2).stderr
    assert "holds a run with select = 'Short', " in told and "this one has select = 'auto', " in told


def asked(folder):
    "Seed row to how often it was asked about, after each round"
    counts, out = Counter(), []
    for path in sorted(folder.glob('round_*/candidates.jsonl')):
        counts.update(json.loads(line)['parent_id'] for line in path.read_text().splitlines())
        out.append(Counter(counts))
    return out


@pytest.fixture(scope='module')
def memorised(tmp_path_factory, run):
    "A run under the default rule in which no seed row is ever wrong, three rows a round"
    out = tmp_path_factory.mktemp('memorised')/'run'
    return out, run(*command(out, *SPREAD))


def test_a_student_that_memorised_its_rows_gets_new_ones_evenly(memorised):
    "and every place that tells of the run says so"
    out, res = memorised
    rounds = read_run(out).rounds
    assert [(m.wrong, m.requested) for m in rounds] == [(0, 3), (0, 3), (0, 3), (0, 1), (0, 0)]
    assert rounds[-1].synthetic == sum(m.kept for m in rounds) <= 10
    for counts in asked(out): assert max(counts.values()) == 1 or len(counts) == 8, 'a second row before all have one'
    assert sorted(asked(out)[-1].values()) == [1]*6 + [2]*2
    note = 'In rounds 0, 1, 2, 3 no seed row was answered wrongly'
    assert note in res.stdout and res.stdout.count('0 wrong, so all seed rows in turn') == 4
    assert note in (out/'report.md').read_text() and note in dataset_card(out).text


def test_max_per_seed_row_holds_where_nothing_is_wrong(tmp_path, run):
    "Then each of the eight rows gets its one, and the run ends"
    run(*command(tmp_path/'run', *MEMORISED, '--max_per_seed_row', '1'))
    assert [sorted(c.values()) for c in asked(tmp_path/'run')] == [[1]*8]
    assert read_run(tmp_path/'run').final.stopped == 'cap reached'


def test_a_memorised_run_killed_and_resumed(memorised, tmp_path):
    "gives the same rows"
    out, _ = memorised
    words = command(tmp_path/'run', *SPREAD)
    for mark in ('round_00/candidates.jsonl', 'round_02/train.jsonl'):
        p = warm.Popen(words, stdout=warm.DEVNULL, stderr=warm.PIPE)
        while p.poll() is None and not (tmp_path/'run'/mark).exists(): time.sleep(.01)
        p.kill()
        assert p.wait() == -signal.SIGKILL
    warm.run(words, check=True, stdout=warm.DEVNULL)
    assert content(tmp_path/'run') == content(out)


def test_a_run_of_the_earlier_default_resumes_under_its_own_rule(tmp_path, run):
    "A folder that says `wrong` is refused under the default, and resumes as the message says"
    words = command(tmp_path/'run', *MEMORISED)
    run(*words, '--select', 'wrong')
    made = content(tmp_path/'run')
    (tmp_path/'run'/'final.json').unlink()
    said = run(*words, status=2).stderr
    assert "holds a run with select = 'wrong'" in said and "this one has select = 'auto'" in said
    assert 'resume with the settings of the folder' in said
    run(*words, '--select', 'wrong')
    assert content(tmp_path/'run') == made and read_run(tmp_path/'run').final.stopped == 'nothing wrong'
