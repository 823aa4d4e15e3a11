"What a person may write after `llm2llm`, and in the files that it names: each mistake is answered with a sentence"
import json, re, shutil, subprocess, sys, time
from pathlib import Path

import pytest
import warm

from llm2llm.cli.main import main
from llm2llm.cli.run import read_words
from llm2llm.core import SettingError
from llm2llm.mini.mini import mini_base
from llm2llm.tasks.task import Task


def said(capsys, *words, ends=2):
    "Standard error of a command that ends so"
    assert main([*map(str, words)]) == ends
    return capsys.readouterr().err


@pytest.mark.parametrize('line', ['rounds: 010', 'rounds: 1:30', 'student: {learning_rate: 1:30}', 'teacher: {price: [010, 1]}', 'output_dir: 2026-13-45'])
def test_a_number_that_yaml_reads_as_another(line, tmp_path, capsys):
    (tmp_path / 'a.yaml').write_text(f'task: mini-gsm\n{line}\n')
    name, _, word = line.strip('}').rpartition(': ')
    text = said(capsys, 'run', '--config', tmp_path / 'a.yaml', '--dry-run')
    assert f'a.yaml:2: {name.rpartition("{")[2]}: YAML reads {word.strip("[").split(",")[0]} as' in text
    assert 'write a plain number' in text
    if name == 'rounds' and ':' in word:
        assert 'rounds: YAML reads' in said(capsys, 'run', '--task', 'mini-gsm', '--rounds', word, '--dry-run')


def test_a_name_of_a_model_that_nobody_has(tmp_path, capsys, monkeypatch):
    "One line, with the model of the cache that was meant"
    for name in ('refs', 'blobs', 'snapshots'): (tmp_path / 'models--Qwen--Qwen2.5-0.5B-Instruct' / name).mkdir(parents=True)
    for module in ('huggingface_hub.constants', 'huggingface_hub.utils._cache_manager'):
        monkeypatch.setattr(f'{module}.HF_HUB_CACHE', str(tmp_path))
    run = ['run', '--task', 'mini-gsm', '--teacher', 'none', '--output_dir', tmp_path / 'run', '--student']
    for name, says in {
        'qwen2.5-0.5b-instrct': 'there is no model folder',
        'Qwen/qwen2.5-0.5b-instrct': "it is not in this machine's cache, and the Hub was not reached",
    }.items():
        text = said(capsys, *run, name)
        assert says in text and "did you mean 'Qwen/Qwen2.5-0.5B-Instruct'?" in text and text.count('\n') == 1
    assert "did you mean 'mini'?" in said(capsys, *run, 'mimi')
    assert not (tmp_path / 'run').exists()


def test_the_base_of_a_run_is_found_or_asked_for(tmp_path, capsys):
    "`predict`, which the end of a run names as the next command, where the base was a folder that is moved later"
    shutil.copytree(mini_base(), tmp_path / 'base')
    run = 'run --task mini-gsm --task.n_seed 4 --task.n_test 4 --teacher none --student.lora_r 4 --student.num_train_epochs 1'
    assert main([*run.split(), '--student', str(tmp_path / 'base'), '--output_dir', str(tmp_path / 'run')]) == 0
    ask = ['predict', str(tmp_path / 'run'), '--ask', '1 + 1?']
    assert main(ask) == 0
    (tmp_path / 'base').rename(tmp_path / 'elsewhere')
    text = said(capsys, *ask)
    assert f"the folder {tmp_path / 'base'}, and it is not there any more" in text and '--base FOLDER' in text
    assert main([*ask, '--base', str(tmp_path / 'elsewhere')]) == 0


DEEP = '[' * 3000
PROMPT = 'prompt --task mini-gsm --teacher api --teacher.model m'
WRONG = {
    f'{PROMPT} --teacher.prompt {{"rules":null}}': 'prompt: rules must be a list of texts, not None',
    f'{PROMPT} --teacher.prompt {{"about":"{"x" * 300}","rules":3}}': 'prompt: rules must be a list of texts, not 3',
    f'{PROMPT} --teacher.base_url http://127.0.0.1:99999': 'base_url: Port out of range',
    f'{PROMPT} --teacher.base_url http://127.0.0.1:abc': 'base_url: Port could not be cast',
    f'{PROMPT} --teacher.base_url http://[::1': 'base_url: Invalid IPv6 URL',
    f'{PROMPT} --teacher.prompt {DEEP}': 'too many brackets within brackets',
    'run --config {tmp}/deep --teacher none': 'deep: too many brackets within brackets',
    'grid --config {tmp}/deep': 'deep: too many brackets within brackets',
    'score gsm8k {tmp}/deep.jsonl': 'deep.jsonl:1: too many brackets within brackets',
    'check {tmp}/deep.jsonl': 'deep.jsonl:1: not JSON',
    'run --task mini-gsm --prompt x': "unknown setting 'prompt'",
    'check caf\udce9.jsonl': r"'caf\udce9.jsonl' is not utf-8; rename the file or folder",
    'run --task mini-gsm --output_dir caf\udce9': 'is not utf-8',
}


@pytest.mark.parametrize('words', WRONG)
def test_a_mistake_is_one_line(words, tmp_path, capsys):
    (tmp_path / 'deep').write_text(f'task: {DEEP}')
    (tmp_path / 'deep.jsonl').write_text(f'{{"question": {DEEP}')
    text = said(capsys, *(w.replace('{tmp}', str(tmp_path)) for w in words.split()))
    assert WRONG[words] in text and text.count('\n') == 1 and 'foresaw' not in text


def test_where_nothing_can_be_printed(run):
    "A full disk, and streams that the shell has closed"
    command = f'unset PYTHONUNBUFFERED; {sys.executable} -m llm2llm'   # which would hide what is lost at the end
    shell = lambda line, status: run('sh', '-c', f'{command} {line}', status=status).stderr
    assert 'No space left' in shell('tasks > /dev/full', 2)
    assert shell('tasks >&-', 0) == '' and shell('nosuch 2> /dev/full', 2) == ''


def test_text_that_turns(tmp_path, capsys):
    "The marks that Arabic and Hebrew need stay; what could turn a line of JSON is its escape"
    row = dict(id='a', question='1 + 1?', answer='1 + 1 = 2\n#### 2')
    (tmp_path / 'rows.jsonl').write_text(json.dumps(row))
    assert main([*f'{PROMPT} --task.n_seed 1'.split(), '--said', 'a \u200f\u202e\x1b b']) == 0
    assert 'a \u200f\ufffd\ufffd b' in capsys.readouterr().out
    assert main(['run', '--task', 'mini-gsm', '--dry-run', '--output_dir', 'a\u202e\u200f']) == 0
    out = capsys.readouterr().out
    assert json.loads(out)['output_dir'] == 'a\u202e\u200f' and '\u202e' not in out


EMPTY = ['run --task mini-gsm --output_dir=', 'run --task=', 'run --task mini-gsm --student=', 'run --config=', 'check --file=', 'report --folder=',
         'demo --output_dir=', 'grid --config=', 'predict x --file=', 'share x a/b --exported=', 'export x --base=', 'score gsm8k x --output_file=',
         'run --task x.csv --task.test=', 'run --task mini-gsm --teacher replay --teacher.folder=', 'run --task mini-gsm --match_run=']


@pytest.mark.parametrize('line', EMPTY)
def test_an_empty_value_names_its_flag(line, tmp_path, capsys):
    flag = line.split()[-1].rstrip('=')
    text = said(capsys, *line.split())
    assert flag in text and ('is empty; give a value' in text or 'needs a value' in text)
    if line == EMPTY[0]:
        (tmp_path / 'a.yaml').write_text("task: mini-gsm\noutput_dir: ''\n")
        assert 'a.yaml:2: output_dir is empty' in said(capsys, 'run', '--config', tmp_path / 'a.yaml')


def test_what_is_left_out_of_a_task(tmp_path, capsys):
    "No dev rows and no instructions, from the shell"
    rows = [dict(question=f'sentence {i}', answer=('glad', 'sad')[i % 2]) for i in range(120)]
    (tmp_path / 'rows.jsonl').write_text(''.join(json.dumps(r) + '\n' for r in rows))
    words = ['run', '--task', str(tmp_path / 'rows.jsonl'), '--teacher', 'none', '--student', 'mini', '--dry-run']
    def task(*more):
        assert main([*words, *more]) == 0
        return json.loads(capsys.readouterr().out)['about']['task']
    assert task()['dev'] > 0 and task()['instructions'] == 'Classes: glad, sad.'
    assert task('--task.dev', 'false')['dev'] == 0
    assert 'instructions' not in task('--task.instructions', 'false')
    (tmp_path / 'labels.yaml').write_text('glad: it went well\nsad: it did not\n')
    told = task('--task.labels', str(tmp_path / 'labels.yaml'))
    assert told['labels'] == ['glad', 'sad'] and 'glad: it went well; sad: it did not.' in told['instructions']


def test_a_folder_with_other_settings_names_the_flags(tmp_path, capsys):
    words = ['run', '--task', 'mini-gsm', '--teacher', 'mini', '--rounds', '1', '--output_dir', tmp_path / 'r']
    small = ['--task.n_seed', '8', '--task.n_test', '4', '--student.max_steps', '1', '--num_folds', '2']
    assert main([*map(str, words), *small]) == 0
    more = ['--student.learning_rate', '0.5', '--max_synthetic_rows', '3', '--task.n_seed', '9']
    text = said(capsys, *words, *small, *more)
    assert 'student.learning_rate = 0.001, ' in text and 'student.learning_rate = 0.5, ' in text
    flags = text.partition('; to resume: ')[2].strip()
    assert flags == '--student.learning_rate 0.001 --task.n_seed 8, no --max_synthetic_rows'
    assert main([*map(str, words), *small, *flags.partition(',')[0].split()]) == 0, 'the advice works'


@pytest.mark.parametrize('labels', [
    '{"glad": "it went well, really", "sad": "it did not"}', '{glad: it went well, sad: it did not}',
    'glad: it went well, sad: it did not', 'labels.yaml', 'glad,sad', '["glad","sad"]'])
def test_labels_are_pairs_or_names(labels, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('seed.jsonl').write_text('')
    Path('labels.yaml').write_text('glad: it went well\nsad: it did not\n')
    Path('run.yaml').write_text(json.dumps({'task': 'seed.jsonl', 'teacher': 'none', 'task.labels': labels}))
    for flags in (['--task', 'seed.jsonl', '--teacher', 'none', '--task.labels', labels], ['--config', 'run.yaml']):
        found = read_words(flags)['task.labels']
        assert [*found] == ['glad', 'sad']
        if ':' in labels or '.yaml' in labels: assert found['sad'] == 'it did not'


def test_a_file_in_the_place_of_a_text(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('asked.txt').write_text('1 + 1?')
    assert 'asked.txt: this is a file; give --file asked.txt' in said(capsys, 'predict', 'r', '--ask', 'asked.txt')
    Path('seed.jsonl').write_text(json.dumps(dict(question='q', answer='a')))
    for name in ('instructions', 'description'):
        words = 'run', '--task', 'seed.jsonl', '--teacher', 'none', f'--task.{name}', 'asked.txt'
        assert f"{name} (--task.{name}) is the text itself, and 'asked.txt' looks like" in said(capsys, *words)


def test_a_name_in_a_settings_file_and_the_rows_as_a_flag(tmp_path, monkeypatch):
    "`task: {name: …}` alone is a task itself; beside a file of rows it is what they are called"
    monkeypatch.chdir(tmp_path)
    Path('seed.jsonl').write_text('')
    Path('run.yaml').write_text('task: {name: mine, dev: false}\nteacher: none\n')
    words = read_words(['--config', 'run.yaml', '--task', 'seed.jsonl'])
    assert (words['task'], words['task.name']) == ('seed.jsonl', 'mine')
    Path('run.yaml').write_text('task: {name: trec, n_seed: 20}\nteacher: none\n')
    words = read_words(['--config', 'run.yaml', '--task', 'snips'])
    assert words['task'] == 'snips' and 'task.name' not in words


def test_what_is_quoted_stays_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    meanings = dict(glad='it went well: yes', sad='no', odd='010')
    Path('labels.json').write_text(json.dumps(meanings))
    for labels in (meanings, 'labels.json', json.dumps(meanings)):
        Path('run.yaml').write_text(json.dumps({'task': 'seed.jsonl', 'teacher': 'none', 'task.labels': labels}))
        assert read_words(['--config', 'run.yaml'])['task.labels'] == meanings
    Path('run.yaml').write_text('task: mini-gsm\nstudent.training_args: {a: 1e-4, b: 2, c: x}\n')
    assert read_words(['--config', 'run.yaml'])['student.training_args'] == dict(a=1e-4, b=2, c='x')


@pytest.mark.parametrize('labels,says', [
    ('lables.yaml', 'task.labels: lables.yaml: no such file'), ('here/labels', 'here/labels: no such file'),
    ('{"glad": "it went', 'task.labels must be a list such as a,b or name: value pairs'),
    ('glad: fine, glad: not', 'stands twice'), ('yes: it is, no: it is not', "write 'yes' [(]in quotes[)]")])
def test_labels_that_are_none(labels, says):
    with pytest.raises(SettingError, match=says):
        read_words(['--task', 'seed.jsonl', '--teacher', 'none', '--task.labels', labels])


@pytest.mark.parametrize('labels,says', [
    (dict(a='x', b=None), "say in words what 'b' means, not None"),
    (dict(a='x', b=''), "say in words what 'b' means"),
    (dict(a=['x'], b='y'), "say in words what 'a' means"),
])
def test_meanings_that_are_none(labels, says):
    rows = [dict(question=f'sentence {i}', answer='ab'[i % 2]) for i in range(40)]
    with pytest.raises(SettingError, match=says): Task.from_files(rows, labels=labels)
    with pytest.raises(SettingError, match='must be a text, or false'): Task.from_files(rows, instructions=5)


def test_meanings_and_instructions_as_they_are_meant():
    rows = [dict(question=f'sentence {i}', answer='12'[i % 2]) for i in range(40)]
    task = Task.from_files(rows, labels={1: 'one', 2: 'two '}, description='Which number?\n')
    assert task.labels == ('1', '2') and task.instructions == 'Which number? 1: one; 2: two.\nClasses: 1, 2.'
    usual = Task.from_files(rows).instructions
    assert Task.from_files(rows, instructions=True).instructions == usual == 'Classes: 1, 2.'
    assert Task.from_files(rows, instructions=' ').instructions == ''


def test_a_doctors_report_holds_no_path(tmp_path, capsys, monkeypatch):
    "Of a base that cannot be read too, and however its folder is written"
    broken = tmp_path / 'alice_secret' / 'base'
    shutil.copytree(mini_base(), broken)
    for p in broken.glob('*.safetensors'): p.write_bytes(p.read_bytes()[:100])
    monkeypatch.chdir(tmp_path)
    for i, folder in enumerate(('alice_secret/base/', './alice_secret/../alice_secret/base', str(broken))):
        assert main(['doctor', '--student', folder, '--device', 'cpu', '--output_file', f'{i}.jsonl']) == 2
        report = (tmp_path / f'{i}.jsonl').read_text()
        assert 'alice' not in report and str(tmp_path) not in report and 'load in 4 bits' in report
    (broken / 'config.json').write_text('{')
    assert main(['doctor', '--student', str(broken), '--output_file', 'read.jsonl']) == 2
    assert 'alice' not in (tmp_path / 'read.jsonl').read_text() and 'No: read the base' in capsys.readouterr().out


# Settings: printed, saved, read back

OWN = 'run --task {0}/own.jsonl --task.question text --task.answer lab --task.test {0}/t.jsonl --task.name tickets ' \
      '--task.labels glad,sad --teacher none --student.lora_r 4 --student.max_steps 2 --output_dir {0}/a'


@pytest.fixture
def own(tmp_path):
    "A command about own files, whose columns and name are not the usual ones"
    for name, n in dict(own=130, t=10).items():
        rows = [dict(text=f'{name} {i}', lab=('glad', 'sad')[i % 2]) for i in range(n)]
        (tmp_path / f'{name}.jsonl').write_text(''.join(json.dumps(r) + '\n' for r in rows))
    return OWN.format(tmp_path).split()


def settings(folder):
    "Of a run, without the notes on how its rows were found"
    out = json.loads((folder / 'run.json').read_text())['settings']
    del out['task']['notes']
    return out


def test_settings_come_back_from_each_file(own, tmp_path, capsys):
    "What was printed, what was saved, and the run itself"
    assert main([*own, '--dry_run']) == 0
    printed = capsys.readouterr().out
    assert 'null' not in printed and json.loads(printed)['task']['name'] == 'tickets'
    (tmp_path / 'printed.json').write_text(printed)
    kept = [tmp_path / f'kept.{ending}' for ending in ('yaml', 'json')]
    for path in kept: assert main([*own, '--save_config', str(path), '--dry_run']) == 0
    assert not (tmp_path / 'a').exists()
    assert main(own) == 0
    files = [tmp_path / 'printed.json', *kept, tmp_path / 'a/run.json']
    for i, path in enumerate(files):
        capsys.readouterr()
        again = ['run', '--config', str(path), '--output_dir', str(tmp_path / f'again{i}')]
        if path.name == 'run.json':
            text = said(capsys, *again)
            assert '--task.test TEST.jsonl' in text and text.count('\n') == 1
            again += own[own.index('--task'):own.index('--task.name')]
        assert main(again) == 0
        assert settings(tmp_path / f'again{i}') == settings(tmp_path / 'a'), path


def test_other_commands_take_the_file_of_a_run(tmp_path, capsys):
    "What only `run` knows, such as its folder, is passed over"
    kept = str(tmp_path / 'k.yaml')
    words = ['--task', 'mini-gsm', '--teacher', 'api', '--teacher.model', 'gpt-4.1-mini', '--teacher.base_url', 'http://localhost:1/v1']
    assert main(['run', *words, '--threads', '1', '--output_dir', str(tmp_path / 'a'), '--dry_run', '--save_config', kept]) == 0
    for command in ('estimate', 'prompt'): assert main([command, '--config', kept]) == 0
    assert 'unknown setting' in said(capsys, 'estimate', *words, '--output_dir', tmp_path / 'a')


def test_the_rows_that_a_run_kept_are_its_task(tmp_path):
    rows = [dict(question=f'sentence {i}', answer=('glad', 'sad')[i % 2]) for i in range(130)]
    (tmp_path / 'own.jsonl').write_text(''.join(json.dumps(r) + '\n' for r in rows))
    words = ['run', '--task', str(tmp_path / 'own.jsonl'), '--teacher', 'none', '--student.max_steps', '1']
    assert main([*words, '--output_dir', str(tmp_path / 'a')]) == 0
    assert main(['run', '--config', str(tmp_path / 'a/run.json'), '--output_dir', str(tmp_path / 'b')]) == 0
    one, two = settings(tmp_path / 'a'), settings(tmp_path / 'b')
    assert one['task']['dev'] and (one['task']['rows'], one['student']) == (two['task']['rows'], two['student'])


@pytest.mark.parametrize('words,says', [
    ('run', ('--task is needed', 'who writes the new rows?')),
    ('run --rounds 2', ('--task is needed', 'who writes the new rows?')),
    ('run --task mini-gsm --teacher api', ('--teacher.model is needed',)),
])
def test_too_few_settings_say_all_that_is_missing(words, says, tmp_path, capsys):
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    effective = json.loads(out[out.index('{'):])
    assert effective['rounds'] == (2 if '2' in words else 5) and 'null' not in out
    assert all(x in err for x in says) and err.count('\n') == 1


def test_a_settings_file_of_somebody_else(own, tmp_path, capsys):
    for name, text in {'a.yaml': 'task: mini-gsm\n', 'a.json': '{"task": "mini-gsm"}'}.items():
        (tmp_path / name).write_text(text)
        assert 'so that nothing of yours' in said(capsys, *own, '--save_config', tmp_path / name, '--dry_run')
        assert (tmp_path / name).read_text() == text
    assert 'must end in' in said(capsys, *own, '--save_config', tmp_path / 'a.txt', '--dry_run')
    for _ in range(2): assert main([*own, '--save_config', str(tmp_path / 'b.yaml'), '--dry_run']) == 0


def test_no_secret_gets_into_a_settings_file(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('OPENAI_API_KEY', 'sk-surely-secret-1234')
    words = ['run', '--task', 'mini-gsm', '--teacher', 'api', '--teacher.model', 'gpt-4.1-mini', '--dry_run']
    kept = tmp_path / 'k.json'
    assert main([*words, '--save_config', str(kept)]) == 0
    assert 'secret' not in kept.read_text() + capsys.readouterr().out
    (tmp_path / 'body.yaml').write_text('api_key: sk-surely-secret-1234\n')
    (tmp_path / 'run.yaml').write_text('teacher: {kind: api, extra_body: {token: sk-surely-secret-1234}}\n')
    for more in (['--teacher.extra_body', tmp_path / 'body.yaml'], ['--config', tmp_path / 'run.yaml']):
        assert 'a key never stands in a file' in said(capsys, *words, *more, '--save_config', tmp_path / 'k2.json')
    assert not (tmp_path / 'k2.json').exists()


# What is seen in a pipe

LINES = """
import sys
import llm2llm.core
llm2llm.core.EVERY = .05
from llm2llm.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_run_in_a_pipe_says_where_it_is(tmp_path):
    "The first line comes before the imports; then lines on the phase and on the whole run; no bars"
    words = ['run', '--task', 'mini-intent', '--rounds', '2', '--output_dir', str(tmp_path / 'run')]
    start = time.monotonic()
    with subprocess.Popen([sys.executable, '-c', LINES, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as p:
        first = p.stdout.readline()
        soon = time.monotonic() - start
        err, out = p.stderr.read(), p.stdout.read()
    assert p.returncode == 0 and first.startswith('llm2llm run: task mini-intent')
    assert soon < .5 * (time.monotonic() - start)   # long before the imports have ended
    lines = err.splitlines()
    assert all(re.search(r'the run: round [012] of 2, (at least )?\d+ (s|min) left|time not known yet', x) for x in lines), err
    assert any(re.match(r'round 1 training: [1-9]\d* of \d+ steps, [\d.]+ a second, \d+ s left; the run: round 1', x) for x in lines)
    assert '\r' not in err and 'stopped: ' in out
    left = [int(m[1]) for x in lines if (m := re.search(r'round [012] of 2, (\d+) s left', x))]
    assert left and left[-1] <= max(left)
    done = sorted((tmp_path / 'run').glob('round_*'))
    for path in (done[-1] / 'metrics.json', tmp_path / 'run/final.json'): path.unlink()
    again = warm.run([sys.executable, '-c', LINES, *words], capture_output=True, text=True)
    last = len(done) - 1
    assert f'resumes at round {last} of 2, after its training, with ' in again.stdout
