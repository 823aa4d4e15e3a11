"What nbs/06_report/07_share.ipynb cannot show: a folder sent over HTTP, a connection that breaks at every step, keys that stay where they are, and the card's command in a shell."

import base64, json, os, shlex, shutil, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import pytest
from datasets import load_dataset
from huggingface_hub import DatasetCard, HfApi, ModelCard, constants

from conftest import ROOT
from llm2llm.cli.run import make_teacher, read_words, run_options
from llm2llm.core import Example, RunError, SettingError
from llm2llm.report.export import export, predict
from llm2llm.report.ledger import write_ledger
from llm2llm.report.report import write_report
from llm2llm import LLM2LLM
from llm2llm.loop.rules import Wrong, find_rule, own_rules
from llm2llm.mini.mini import MiniTeacher, mini_base, mini_student, mini_task
from llm2llm.report.cards import _selected, command_line, dataset_card, shared_rows
from llm2llm.report.share import push, share
from llm2llm.store.folder import read_json, read_jsonl, write_json, write_jsonl
from llm2llm.store.records import RunFolder
from llm2llm.tasks.task import Task

TOKEN = 'hf_' + 'thisIsNoToken'*3


class Hub:
    "The five answers of the Hub that a commit of small files needs, on loopback. `fault`: (part of a path, what happens there: 'cut', or a status)"

    def __init__(self):
        self.repos, self.files, self.asked, self.fault, self.public = {}, {}, [], None, False
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'
            def log_message(self, *a): pass
            def do_GET(self): hub.answer(self, b'')
            def do_POST(self): hub.answer(self, self.rfile.read(int(self.headers.get('Content-Length', 0))))

        self.server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self.server.server_port}'
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, h, body):
        path = h.path.split('?')[0]
        self.asked.append(path)
        if h.headers.get('Authorization') != f'Bearer {TOKEN}':
            return self.say(h, 401, dict(error=f"bad token {h.headers.get('Authorization')}"))
        if self.fault and self.fault[0] in path:
            if self.fault[1] == 'cut':
                h.close_connection = True
                return h.connection.close()
            return self.say(
                h, self.fault[1], dict(error=f"no, and your header was {h.headers['Authorization']}")
            )
        self.say(h, *self.at(path, body))

    def say(self, h, status, value):
        text = value.encode() if isinstance(value, str) else json.dumps(value).encode()
        h.send_response(status)
        h.send_header('Content-Type', 'application/json')
        h.send_header('Content-Length', str(len(text)))
        h.end_headers()
        h.wfile.write(text)

    def at(self, path, body):
        parts = path.strip('/').split('/')
        if path == '/api/validate-yaml': return 200, dict(errors=[], warnings=[])
        if path == '/api/repos/create':
            said = json.loads(body)
            name = f"{said['organization']}/{said['name']}"
            if name in self.repos:
                return 409, dict(error='You already created this repo', url=f'{self.url}/{name}')
            self.repos[name] = said.get('visibility') == 'private' and not self.public
            return 200, dict(
                url=f'{self.url}/{said["type"]}s/{name}'
                if said.get('type') == 'dataset'
                else f'{self.url}/{name}'
            )
        name, rest = '/'.join(parts[2:4]), parts[4:]
        if name not in self.repos: return 404, dict(error='Repository not found')
        if not rest: return 200, dict(id=name, private=self.repos[name], sha='a'*40, siblings=[])
        if rest[0] == 'preupload':
            return 200, dict(
                files=[
                    dict(path=f['path'], uploadMode='regular', shouldIgnore=False)
                    for f in json.loads(body)['files']
                ]
            )
        if rest[0] == 'tree':
            return 200, [
                dict(type='file', path=p, size=len(b), oid='0' * 40)
                for p, b in self.files.get(name, {}).items()
            ]
        assert rest[0] == 'commit'
        for line in map(json.loads, body.splitlines()):
            if line['key'] == 'file':
                self.files.setdefault(name, {})[line['value']['path']] = base64.b64decode(
                    line['value']['content']
                )
        return 200, dict(success=True, commitOid='b'*40, commitUrl=f'{self.url}/{name}/commit/{"b"*40}')


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setattr('huggingface_hub.utils._http.time.sleep', lambda s: None)
    hub = Hub()
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A run and its export"
    at, task = tmp_path_factory.mktemp('share'), mini_task(n_seed=32, n_dev=20)
    run = LLM2LLM(task, mini_student(lora_r=8, learning_rate=5e-3, dtype='float32'), MiniTeacher(), at / 'run', rounds=1).fit(
        verbose=False
    )
    export(at/'run', at/'run'/'export', base=mini_base(), task=task)
    return at/'run', run


def on_disk(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob('*') if p.is_file()}


@pytest.mark.parametrize('kind', ['dataset', 'adapter', 'model'])
def test_exactly_what_was_listed_arrives(made, hub, tmp_path, kind):
    folder, _ = made
    found = share(folder, 'me/mine', kind, license='mit', output_dir=tmp_path/'out')
    assert not hub.asked, 'a listing asks nobody'
    (tmp_path/'out.json').write_text((tmp_path/'out.json').read_text())  # beside the folder, so not in it
    sent = push(found, HfApi(hub.url, token=TOKEN))
    assert hub.repos == {'me/mine': True} and hub.files['me/mine'] == on_disk(tmp_path/'out')
    assert sorted(hub.files['me/mine']) == sorted(n for n, *_ in found.files) and sent.url.endswith('b'*40)
    assert TOKEN not in str(sent) and not any(
        TOKEN.encode() in b for b in [*on_disk(tmp_path).values(), *on_disk(folder).values()]
    )


def test_the_repository_is_the_folder_and_loads(made, hub, tmp_path):
    folder, run = made
    push(share(folder, 'me/mine', output_dir=tmp_path/'out'), HfApi(hub.url, token=TOKEN))
    for name, content in hub.files['me/mine'].items():
        (tmp_path/'clone'/name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/'clone'/name).write_bytes(content)
    there = load_dataset(str(tmp_path/'clone'), split='train', cache_dir=str(tmp_path/'cache'))
    assert there.to_list() == run.dataset().to_list() and there.features == shared_rows(folder).features


@pytest.mark.parametrize('step', ['/repos/create', '/datasets/me/mine', '/validate-yaml', '/preupload', '/commit', '/tree'])
@pytest.mark.parametrize('how', ['cut', 403, 500])
def test_a_fault_at_any_step_says_so_and_the_same_call_goes_on(made, hub, tmp_path, step, how):
    found = share(made[0], 'me/mine', output_dir=tmp_path/'out')
    before = on_disk(tmp_path)
    hub.fault = step, how
    with pytest.raises(RunError) as e: push(found, HfApi(hub.url, token=TOKEN))
    assert (
        'is kept in' in str(e.value)
        and TOKEN not in str(e.value)
        and e.value.__cause__ is None
        and e.value.__suppress_context__
    )
    assert (
        'does not let this token write'
        if how == 403
        else 'status 500'
        if how == 500
        else 'not reached to the end'
    ) in str(e.value)
    assert on_disk(tmp_path) == before and hub.files.get('me/mine', {}) in ({}, on_disk(tmp_path/'out'))
    hub.fault = None
    push(found, HfApi(hub.url, token=TOKEN))
    assert hub.files['me/mine'] == on_disk(tmp_path/'out')


def test_a_wrong_token_no_token_no_network(made, hub, tmp_path, monkeypatch):
    found = share(made[0], 'me/mine', output_dir=tmp_path/'out')
    with pytest.raises(RunError, match='does not accept the token') as e:
        push(found, HfApi(hub.url, token=TOKEN[:-4]))
    assert TOKEN[:-4] not in str(e.value)
    with pytest.raises(RunError, match='not reached to the end'):
        push(found, HfApi('http://127.0.0.1:9', token=TOKEN))  # nobody listens there
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    with pytest.raises(RunError, match='HF_HUB_OFFLINE is set'): push(found, HfApi(hub.url, token=TOKEN))
    for name in ('HF_TOKEN', 'HUGGING_FACE_HUB_TOKEN'): monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, 'HF_TOKEN_PATH', str(tmp_path/'none'))
    with pytest.raises(SettingError, match='there is no token for the Hub'): push(found)


def test_not_into_a_repository_that_all_can_read(made, hub, tmp_path):
    hub.public = True
    with pytest.raises(SettingError, match='me/mine exists and is public; nothing was sent'):
        push(share(made[0], 'me/mine', output_dir=tmp_path / 'out'), HfApi(hub.url, token=TOKEN))
    assert not hub.files and not any('commit' in a for a in hub.asked)
    push(share(made[0], 'me/mine', private=False, output_dir=tmp_path/'out'), HfApi(hub.url, token=TOKEN))
    assert hub.files


YES = '''
import sys
from llm2llm.core import LLM2LLMError
from llm2llm.report.share import share
try: print(share(sys.argv[1], 'me/mine', output_dir=sys.argv[2], yes=sys.argv[3]=='yes', without_seed=sys.argv[4]=='less'))
except LLM2LLMError as e: print('ERROR', e)
'''


def test_nothing_goes_before_it_was_listed(made, hub, tmp_path, run):
    "As two commands, with the token in the environment"
    do = lambda yes, less, **env: run(sys.executable, '-c', YES, made[0], tmp_path/'out', yes, less, **env)
    # without these the Hub is out of reach, and a call that asks for it fails
    env = dict(HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN, HF_HUB_OFFLINE='0', HF_HOME=str(tmp_path/'home'))
    assert 'has not been listed yet' in do('yes', '', **env).stdout and not hub.asked
    assert 'Nothing was sent.' in do('no', '').stdout and not hub.asked
    # what was listed is something else
    assert 'has not been listed yet' in do('yes', 'less').stdout and not hub.asked
    do('no', '')
    (tmp_path/'out'/'README.md').open('a').write('\nMine.\n')
    assert 'has not been listed yet, or has changed' in do('yes', '').stdout and not hub.asked
    assert 'Not as it was written, and kept as it is.' in do('no', '').stdout
    sent = do('yes', '', **env)
    assert (
        'Sent: ' in sent.stdout
        and hub.files['me/mine'] == on_disk(tmp_path / 'out')
        and hub.files['me/mine']['README.md'].endswith(b'\nMine.\n')
    )
    assert TOKEN not in sent.stdout + sent.stderr


def test_no_secret_and_no_path_in_what_is_shared(made, tmp_path, monkeypatch):
    folder, _ = made
    for kind in ('dataset', 'adapter', 'model'):
        text = b''.join(on_disk(share(folder, 'me/mine', kind, output_dir=tmp_path/kind).path).values())
        for place in (str(folder.parent), str(mini_base()), str(Path.home()) + '/', os.getcwd()):
            assert place.encode() not in text
    monkeypatch.setenv('SOME_API_KEY', 'the-very-secret-value')
    (tmp_path/'dataset'/'README.md').open('a').write('the-very-secret-value')
    with pytest.raises(ValueError, match='holds what looks like a key') as e:
        share(folder, 'me/mine', output_dir=tmp_path / 'dataset')
    assert 'secret-value' not in str(e.value)


def test_the_cards_load_and_the_model_answers(made, tmp_path):
    "The code in the cards is run as it stands there, with the folder in the place of the repository"
    folder, run = made
    for kind in ('adapter', 'model'):
        out = share(
            folder, 'me/mine', kind, license='mit', language='en', output_dir=tmp_path / kind, base='me/base'
        ).path
        card = ModelCard.load(out/'README.md')
        assert (card.data.license, card.data.base_model, card.data.language) == ('mit', 'me/base', 'en')
        code = card.text.split('```python\n')[1].split('\n```')[0]
        if kind == 'adapter':
            config = json.loads((out/'adapter_config.json').read_text())
            write_json(out/'adapter_config.json', config | dict(base_model_name_or_path=str(mini_base())))
        said = []
        question = run.task.test[0].question
        exec(
            code.replace("'me/mine'", repr(str(out))).replace("question = '…'", f'question = {question!r}'),
            dict(print=said.append),
        )
        assert said == [
            a['completion']
            for a in read_jsonl(folder / 'round_01' / 'test_answers.jsonl')
            if a['id'] == run.task.test[0].id
        ]
    data = DatasetCard(str(dataset_card(folder, 'me/rows', 'cc0-1.0'))).data
    assert data.license == 'cc0-1.0' and data.task_categories == ['text-generation']


def test_the_command_of_a_card_draws_the_same_rows(tmp_path):
    "of a built-in task of other sizes and another draw"
    task = mini_task('mini-intent', n_seed=8, n_test=9, seed=3)
    LLM2LLM(task, mini_student('mini-intent', num_train_epochs=1), None, tmp_path / 'run').fit(verbose=False)
    words = shlex.split(command_line(RunFolder(tmp_path / 'run').settings()))
    made = {k.removeprefix('--task.'): int(v) for k, v in pairwise(words) if k.startswith('--task.')}
    again = mini_task(words[words.index('--task') + 1], **made)
    assert (again.seed_rows, again.test) == (task.seed_rows, task.test)


def test_the_command_of_a_card_makes_the_same_rows(made, tmp_path, run):
    folder, _ = made
    line = shlex.split(command_line(RunFolder(folder).settings()))
    run(*line, '--output_dir', tmp_path/'again', timeout=300)
    again, first = (json.loads((f/'run.json').read_text())['settings'] for f in (tmp_path/'again', folder))
    assert again == first
    assert shared_rows(tmp_path/'again').to_list() == shared_rows(folder).to_list()


TEACHERS = dict(
    api=dict(
        name='gpt-x',
        kind='api',
        protocol='corrected',
        prompt=dict(error=False, demos=1),
        temperature=0.7,
        top_p=1.0,
        max_completion_tokens=None,
        response_format='json',
        extra_body=dict(user='someone private'),
    ),
    local=dict(
        name='Chat-4B',
        kind='local',
        protocol='corrected',
        prompt=dict(about='Own words'),
        temperature=1.0,
        top_p=1.0,
        max_completion_tokens=64,
        response_format='auto',
        base_digest='0',
        quantization='nf4',
        dtype='bfloat16',
    ),
    replay=dict(
        name='gpt-x',
        kind='replay',
        made_by='api',
        protocol='corrected',
        prompt={},
        temperature=1.0,
        top_p=1.0,
        max_completion_tokens=None,
        response_format='auto',
        replies='0',
    ),
    pool=dict(name='pool', m=None),
    eda=dict(name='eda', alpha=0.2, wordnet='3.0'),
)


@pytest.mark.parametrize('who', TEACHERS)
def test_cards_of_other_runs(made, tmp_path, who, monkeypatch):
    "An own label task on a base of the Hub: what the folder would say, its card, and a command that the command line knows"
    folder, _ = made
    head = json.loads((folder/'run.json').read_text())
    head['settings'] |= dict(
        teacher=TEACHERS[who],
        select='random',
        num_verifications=3 if who == 'api' else 0,
        near_duplicate_threshold=0.8,
    )
    head['settings']['task'] |= dict(
        name='intents', kind='label', labels=['Play', 'Book'], template='{question}\nIntent:', test=0
    )
    head['settings']['student'] |= dict(
        model_name_or_path='some/base', base_digest='c' * 40, quantization='nf4', chat=True
    )
    write_json(tmp_path/'run'/'run.json', head)
    for name in (
        'final.json',
        'seed.jsonl',
        *(f'round_0{r}/{f}' for r in (0, 1) for f in ('metrics.json', 'train.jsonl')),
    ):
        (tmp_path / 'run' / name).parent.mkdir(exist_ok=True)
        (tmp_path / 'run' / name).write_bytes((folder / name).read_bytes())
    text = str(dataset_card(tmp_path/'run', 'me/rows'))
    assert ('- [ ] Teacher: ' in text) == (who in ('api', 'local', 'replay')) and ('- synthetic' in text) == (
        who != 'pool'
    )
    assert 'someone private' not in text and ('the fields user' in text) == (who == 'api')
    assert (
        'There were **no test rows** to filter against' in text
        and ('ROUGE-L F1 of 0.8' in text)
        and ('solved its question 3 times' in text) == (who == 'api')
    )
    line = shlex.split(command_line(RunFolder(tmp_path/'run').settings()))
    (tmp_path/'EXTRA_BODY.yaml').write_text('user: me')   # what is in capitals is to be filled in
    monkeypatch.chdir(tmp_path)
    words = read_words(line[2:], run_options)
    student = {k: words[f'student.{k}'] for k in ('revision', 'chat', 'lora_r', 'quantization')}
    assert (
        student == dict(revision='c' * 40, chat=True, lora_r=8, quantization='nf4')
        and words['student'] == 'some/base'
    )
    assert (words['teacher'], words['task.labels'], words['select']) == (who, ['Play', 'Book'], 'random')
    teacher = {k.partition('.')[2]: v for k, v in words.items() if k.startswith('teacher.')}
    if who == 'api':
        assert teacher == dict(
            model='gpt-x',
            prompt=dict(error=False, demos=1),
            temperature=0.7,
            response_format='json',
            extra_body=dict(user='me'),
        )
        assert words['num_verifications'] == 3
    if who == 'local':
        assert teacher == dict(
            model='FOLDER_OF/Chat-4B',
            prompt=dict(about='Own words'),
            max_completion_tokens=64,
            quantization='nf4',
            dtype='bfloat16',
        )
    if who in ('pool', 'eda'): assert make_teacher(words).settings() == TEACHERS[who]


def test_every_rule_of_selection_has_words():
    own = [
        find_rule(f'{ROOT}/nbs/results/rules.py:{name}') for name in ('Learnable', 'Margin', 'CrossfitLabel')
    ]
    for rule in (*own_rules().values(), *own):
        assert rule.help and _selected(dict(select=rule.name, rule=dict(words=rule.words))) == rule.words
    assert _selected({}) == Wrong.words and _selected(dict(select='mine')) == "selected by 'mine'"


LOST = ('round_01/train.jsonl', 'round_00/candidates.jsonl', 'round_01/test_answers.jsonl', 'dev.jsonl', 'round_00/metrics.json')


@pytest.mark.parametrize('lost', LOST)
def test_a_file_that_lost_rows_is_not_shared(made, tmp_path, lost):
    "nor shown beside the counts; the command of the run makes the file again"
    folder, run = made
    shutil.copytree(folder, tmp_path / 'run')
    file = tmp_path / 'run' / lost
    lines = file.read_text().splitlines(keepends=True)
    file.write_text(''.join(lines[:-2]))
    says = f'{lost} holds {len(lines) - 2:,} rows, and the run counted {len(lines):,}'
    if file.suffix == '.json':
        file.unlink()
        says = f'{lost} is not there'
    again = lambda f: LLM2LLM(run.task, run.student, MiniTeacher(), f, rounds=1)
    for write in (lambda f: share(f, 'me/x'), dataset_card, write_report, write_ledger,
                  lambda f: predict(f, ['1 + 1?']), lambda f: again(f).rows(), lambda f: again(f).dataset()):
        with pytest.raises(RunError, match=says): write(tmp_path / 'run')
    if lost == LOST[0]:
        again(tmp_path / 'run').fit(verbose=False)
        write_report(tmp_path / 'run')
        assert file.read_text() == ''.join(lines)


def test_choices_and_missing_values_keep_their_types(made, tmp_path):
    folder, _ = made
    for name in ('run.json', 'final.json', 'seed.jsonl', 'round_01/metrics.json', 'round_00/metrics.json'):
        (tmp_path/'run'/name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path/'run'/name).write_bytes((folder/name).read_bytes())
    numbers = read_json(tmp_path/'run'/'round_01'/'metrics.json')
    write_json(tmp_path/'run'/'round_01'/'metrics.json', numbers | dict(train_rows=1))
    write_jsonl(tmp_path/'run'/'round_01'/'train.jsonl', [Example('a', 'Which?', 'x', ('x', 'ÿ \U0001F600'))])
    found = share(tmp_path/'run', 'me/x')
    there = load_dataset(str(found.path), split='train', cache_dir=str(tmp_path/'cache'))
    assert (
        there.features == shared_rows(folder).features
        and there[0]['choices'] == ['x', 'ÿ \U0001f600']
        and there[0]['parent_id'] is None
    )


def test_from_the_shell(tmp_path, run):
    run(
        'llm2llm',
        'run',
        '--task',
        'mini-intent',
        '--student',
        'mini',
        '--task.n_seed',
        7,
        '--student.num_train_epochs',
        1,
        '--rounds',
        1,
        '--output_dir',
        tmp_path / 'run',
    )
    said = run('llm2llm', 'share', tmp_path/'run', 'me/rows').stdout
    assert 'me/rows' in said and 'README.md' in said and (tmp_path/'run/share/dataset/README.md').exists()
    assert (
        'has not been listed yet'
        in run(
            'llm2llm',
            'share',
            tmp_path / 'run',
            'me/rows',
            '--without-seed',
            '--yes',
            '--output_dir',
            tmp_path / 'other',
            status=2,
        ).stderr
    )


@pytest.mark.parametrize('again', [False, True])
def test_killed_at_any_rename_the_same_call_goes_on(made, tmp_path, monkeypatch, again):
    "before or after it, at the first time or where the folder is replaced by one for another name"
    folder, replace = made[0], os.replace
    whole = share(folder, 'me/mine', output_dir=tmp_path / 'whole')
    for at in range(6):
        out, left = tmp_path / f'{at}', at
        if again: share(folder, 'me/other', output_dir=out)

        def dies(src, dst):
            nonlocal left
            left -= 2
            if left == -2: raise KeyboardInterrupt
            replace(src, dst)
            if left == -1: raise KeyboardInterrupt

        monkeypatch.setattr(os, 'replace', dies)
        with pytest.raises(KeyboardInterrupt): share(folder, 'me/mine', output_dir=out)
        monkeypatch.setattr(os, 'replace', replace)
        found = share(folder, 'me/mine', output_dir=out)
        assert (found.files, found.note) == (whole.files, '')


def test_what_is_shared_is_a_copy(made, tmp_path):
    "A change in it changes nothing in the export"
    folder, _ = made
    before = on_disk(folder / 'export')
    out = share(folder, 'me/mine', 'model', output_dir=tmp_path / 'out').path
    for p in out.iterdir(): p.write_bytes(b'changed')
    assert on_disk(folder / 'export') == before
    (tmp_path / 'mine').mkdir()
    for content in (dict(mine=1), dict(scores={}, inputs={}, content={})):
        write_json(tmp_path / 'mine' / 'export.json', content)
        with pytest.raises(RunError, match='export.json is not what this version of export writes'):
            share(folder, 'me/mine', 'model', exported=tmp_path / 'mine')


def test_the_model_card_asks_with_the_instructions(tmp_path):
    "The code of a card makes the prompt that the student was trained on, whatever the instructions hold"
    rows = [dict(question=f'sentence {i}', answer=('glad', 'sad')[i % 2]) for i in range(8)]
    told = "It's a {question} of 'mood'.\nClasses: glad, sad."
    task = Task.from_files(rows, instructions=told, dev=False)
    LLM2LLM(task, mini_student(max_steps=2), None, tmp_path / 'run').fit(verbose=False)
    export(tmp_path / 'run', tmp_path / 'run' / 'export', base=mini_base())
    card = share(tmp_path / 'run', 'me/mine', 'model', license='mit').path / 'README.md'
    line = next(l for l in card.read_text().splitlines() if l.startswith('prompt = '))
    made = dict(question='sentence 3')
    exec(line, made)
    assert made['prompt'] == task.prompt(task.seed_rows[3]) and told in made['prompt']
