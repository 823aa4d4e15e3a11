"What stands where a command is told to write: nothing that llm2llm did not write itself is removed or replaced"

import errno, json, os, shutil, stat, sys
from pathlib import Path

import pytest
import yaml

import warm

from llm2llm.cli.main import main
from llm2llm.core import LLM2LLMError, StudentError
from llm2llm import LLM2LLM
from llm2llm.mini import demo
from llm2llm.mini.mini import mini_base, mini_student, mini_task
from llm2llm.store.stages import StageFolder
from llm2llm.store.folder import _sync, _sync_one, atomic_write, write_text
from llm2llm.student.student import Student

PRECIOUS = 'the only copy of three years of work\n'
ROWS = [dict(question=f'What are {i} and {i}?', answer=f'{i} + {i} = {2*i}\n#### {2*i}') for i in range(3, 9)]
PLAN = dict(
    common=dict(
        student=dict(model_name_or_path='mini', num_train_epochs=1), task=dict(name='mini-gsm', n_seed=4)
    ),
    seeds=1,
    methods=dict(plain=dict(teacher='none')),
)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A folder with what commands read: a finished run, rows, completions, a plan"
    here = tmp_path_factory.mktemp('made')
    LLM2LLM(
        mini_task('mini-gsm', n_seed=4, n_test=4), mini_student(num_train_epochs=1), None, here / 'run'
    ).fit(verbose=False)
    (here/'rows.jsonl').write_text(''.join(json.dumps(r)+'\n' for r in ROWS))
    (here/'said.jsonl').write_text(''.join(json.dumps(r | dict(completion=r['answer']))+'\n' for r in ROWS))
    (here/'plan.yaml').write_text(yaml.safe_dump(PLAN))
    return here


FILES = dict(
    check='check {here}/rows.jsonl',
    predict='predict {here}/run --file {here}/rows.jsonl --base mini',
    score='score gsm8k {here}/said.jsonl',
)
FOLDERS = dict(
    run='run --task mini-gsm --task.n_seed 4 --teacher none --student mini --student.num_train_epochs 1',
    export='export {here}/run --base mini',
    share='share {here}/run me/rows',
    grid='grid --config {here}/plan.yaml --workers 1',
    demo='demo --seeds 2 --rounds 1',
)


FORKS = """
import sys, warnings
from joblib.externals.loky.backend.context import set_start_method
from llm2llm.cli.main import main
warnings.filterwarnings('ignore', '`fork` start method')
set_start_method('fork')
sys.exit(main(sys.argv[1:]))
"""


def call(command, made, out):
    "Exit status of a command that is to write to `out`"
    to = '--output_file' if command in FILES else '--output_dir'
    words = [*(FILES | FOLDERS)[command].format(here=made).split(), to, str(out)]
    if command != 'grid': return main(words)
    return warm.run([sys.executable, '-c', FORKS, *words]).returncode   # its worker has the libraries, too


def listed(folder):
    "Everything below a folder: name to content"
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None
        for p in sorted(folder.rglob('*'))
        if p.name != '.lock'
    }


def filled(folder):
    "A folder with what nobody may lose"
    (folder/'sub').mkdir(parents=True)
    for name in ('thesis.txt', 'sub/notes.md', 'README.md', 'error.json'): (folder/name).write_text(PRECIOUS)
    return folder


@pytest.mark.parametrize('command', [*FILES, *FOLDERS])
def test_a_folder_of_somebody_else(command, made, tmp_path, capsys):
    before = listed(filled(tmp_path/'mine'))
    ends = call(command, made, tmp_path/'mine')
    after = listed(tmp_path/'mine')
    assert {k: after.get(k) for k in before} == before
    if command == 'grid': return   # its cells have folders of their own
    assert ends == 2 and after == before
    assert str(tmp_path/'mine') in capsys.readouterr().err


@pytest.mark.parametrize('command', FILES)
@pytest.mark.parametrize('content', [PRECIOUS, '\n \n'+PRECIOUS, json.dumps(ROWS[0])+'\n', '[1]\n', '\xff', 'id,prediction,correct,truncated,mine\n',
    json.dumps(dict.fromkeys('id question prediction completion truncated correct reason held_out kind detail mine'.split(), 1))])
def test_a_file_of_somebody_else(command, content, made, tmp_path, capsys):
    mine = tmp_path/'mine.jsonl'
    mine.write_text(content)
    assert call(command, made, mine) == 2 and mine.read_text() == content
    said = capsys.readouterr().err
    assert str(mine) in said and 'another' in said
    assert [p.name for p in tmp_path.iterdir()] == ['mine.jsonl']


@pytest.mark.parametrize('command', FOLDERS)
def test_a_file_where_a_folder_is_to_be(command, made, tmp_path):
    (tmp_path/'mine').write_text(PRECIOUS)
    assert call(command, made, tmp_path/'mine') == 2 and (tmp_path/'mine').read_text() == PRECIOUS


@pytest.mark.parametrize('command', FILES)
def test_the_rows_themselves(command, made, tmp_path):
    "The file that is read, named as the one to write"
    words = [w.format(here=made) for w in FILES[command].split()]
    [file] = [w for w in words if w.endswith('.jsonl')]
    before = Path(file).read_text()
    assert main([*words, '--output_file', file]) == 2 and Path(file).read_text() == before


def test_what_was_predicted_is_not_its_own_question(made, tmp_path):
    "The output of a command that is its input too, fields and all"
    out = tmp_path/'out.jsonl'
    assert call('predict', made, out) == 0
    before = out.read_bytes()
    assert (
        main(['predict', str(made / 'run'), '--file', str(out), '--base', 'mini', '--output_file', str(out)])
        == 2
        and out.read_bytes() == before
    )


@pytest.mark.parametrize('out', ['a'*250, 'loop'])
def test_names_that_cannot_be_written(out, made, tmp_path, capsys):
    (tmp_path/'loop').symlink_to(tmp_path/'pool'), (tmp_path/'pool').symlink_to(tmp_path/'loop')
    ends = call('score', made, tmp_path/out)
    assert ends == (0 if out[0] == 'a' else 2) and (ends == 0 or 'circle' in capsys.readouterr().err)
    assert call('score', made, tmp_path/('a'*300)) == 2


@pytest.mark.parametrize('command', FILES)
def test_the_same_command_again(command, made, tmp_path):
    "What the command wrote before is written again, also where an empty file was made for it"
    out = tmp_path/'new'/'out.jsonl'
    assert call(command, made, out) == 0
    first = out.read_bytes()
    assert (
        len(first.splitlines()) == len(ROWS) and call(command, made, out) == 0 and out.read_bytes() == first
    )
    out.write_bytes(b'')
    assert call(command, made, out) == 0 and out.read_bytes() == first


@pytest.mark.parametrize('command', FILES)
def test_a_link_stays_one(command, made, tmp_path):
    (tmp_path/'there').mkdir()
    (tmp_path/'link.jsonl').symlink_to(tmp_path/'there'/'out.jsonl')
    assert call(command, made, tmp_path/'link.jsonl') == 0
    assert (tmp_path / 'link.jsonl').is_symlink() and len(
        (tmp_path / 'there' / 'out.jsonl').read_text().splitlines()
    ) == len(ROWS)


def test_no_device_is_replaced(tmp_path):
    "A pipe here; /dev/null and /dev/stdout are no regular files either"
    os.mkfifo(tmp_path/'pipe')
    (tmp_path/'link').symlink_to(tmp_path/'pipe')
    for name in ('pipe', 'link'):
        with pytest.raises(LLM2LLMError, match='not a regular file'): write_text(tmp_path/name, 'a')
    assert (
        stat.S_ISFIFO((tmp_path / 'pipe').stat().st_mode)
        and (tmp_path / 'link').is_symlink()
        and len([*tmp_path.iterdir()]) == 2
    )


def test_a_grid_and_its_table(made, tmp_path):
    (tmp_path/'mine').mkdir()
    (tmp_path/'mine'/'cells.csv').write_text('mine,too\n1,2\n')
    assert (
        call('grid', made, tmp_path / 'mine') == 2
        and (tmp_path / 'mine' / 'cells.csv').read_text() == 'mine,too\n1,2\n'
    )
    cell = filled(tmp_path/'other'/'seed_0'/'plain')
    before = listed(cell)
    assert call('grid', made, tmp_path/'other') == 2 and listed(cell) == before
    (tmp_path/'other'/'seed_0'/'plain'/'cell.json').write_text('{"mine": 1}')
    before = listed(cell)
    assert call('grid', made, tmp_path/'other') == 2 and listed(cell) == before
    assert call('grid', made, tmp_path/'new') == 0 and call('grid', made, tmp_path/'new') == 0


def test_the_file_beside_what_is_shared(made, tmp_path):
    "share keeps its book beside the folder"
    for content in (PRECIOUS, '[]', json.dumps(dict(a=1))):
        (tmp_path/'rows.json').write_text(content)
        assert call('share', made, tmp_path/'rows') == 2
        assert (tmp_path/'rows.json').read_text() == content and not (tmp_path/'rows').exists()


def test_a_student_is_saved_beside_nobody_elses_files(made, tmp_path):
    student = mini_student(num_train_epochs=1)
    student.train([('1 + 1 =', ' 2')])
    before = listed(filled(tmp_path/'mine'))
    with pytest.raises(LLM2LLMError, match='not empty'): student.save(tmp_path/'mine')
    with pytest.raises(StudentError, match="student's base"): student.save(mini_base())
    assert listed(tmp_path/'mine') == before
    for _ in range(2): student.save(tmp_path/'new')   # its own is written again
    model = tmp_path/'a model'
    shutil.copytree(mini_base(), model)
    before = listed(model)
    with pytest.raises(LLM2LLMError, match='not empty'): student.save(model)
    assert listed(model) == before
    adapted = Student(mini_base(), lora_r=4, num_train_epochs=1)
    adapted.train([('1 + 1 =', ' 2')])
    adapted.save(tmp_path/'adapter')
    (tmp_path/'adapter'/'README.md').write_text(PRECIOUS)
    adapted.save(tmp_path/'adapter')
    assert (tmp_path/'adapter'/'README.md').read_text() == PRECIOUS


def test_what_a_user_puts_into_a_run_stays(made, tmp_path):
    "A stage with somebody else's file in it is made again, and keeps it"
    shutil.copytree(made/'run', tmp_path/'run')
    notes = tmp_path/'run'/'round_00'/'student'/'sub'/'notes.md'
    notes.parent.mkdir()
    notes.write_text(PRECIOUS)
    (tmp_path/'run'/'.thesis.partial').write_text(PRECIOUS)
    for _ in range(2):
        LLM2LLM(
            mini_task('mini-gsm', n_seed=4, n_test=4),
            mini_student(num_train_epochs=1),
            None,
            tmp_path / 'run',
        ).fit(verbose=False)
    assert notes.read_text() == PRECIOUS and (tmp_path/'run'/'.thesis.partial').read_text() == PRECIOUS
    trained = [
        l
        for l in map(json.loads, (tmp_path / 'run' / 'log.jsonl').read_text().splitlines())
        if l.get('phase') == 'train'
    ]
    assert len(trained) == 2, 'made again once'


def test_two_writers_of_one_file(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: write_text(tmp_path / 'a.txt', f'{i}\n' * 100), range(200)))
    assert len(set((tmp_path / 'a.txt').read_text().split())) == 1 and [
        p.name for p in tmp_path.iterdir()
    ] == ['a.txt']


def test_a_folder_takes_the_place_of_none(tmp_path):
    "Not even from Python; a run replaces its own stages only"
    before = listed(filled(tmp_path/'mine'))
    with pytest.raises(LLM2LLMError, match='not empty'), atomic_write(tmp_path/'mine') as p: p.mkdir()
    with pytest.raises(LLM2LLMError, match='is a folder'), atomic_write(tmp_path / 'mine', ours=True) as p:
        p.write_text('a file')
    assert listed(tmp_path/'mine') == before and [p.name for p in tmp_path.iterdir()] == ['mine']
    (tmp_path/'empty').mkdir()
    with atomic_write(tmp_path/'empty') as p: p.mkdir(), (p/'a').write_text('1')
    assert listed(tmp_path/'empty') == dict(a=b'1')
    folder = StageFolder(tmp_path/'run')
    def student(text): return lambda p: (p.mkdir(), (p/'weights').write_text(text))
    with folder.open():
        folder.claim(dict(seed=0))
        for rows in 'ab': assert (folder.stage('student', rows, student(rows))/'weights').read_text() == rows


PAGES = {'report': ('report.md', 'report.html', 'report.svg'), 'ledger': ('ledger.html',)}


@pytest.mark.parametrize('command', PAGES)
def test_a_page_of_somebody_else(command, made, tmp_path, capsys):
    "A file of a page's name that a user put into the run's folder; the command's own page is written again"
    shutil.copytree(made / 'run', tmp_path / 'run')
    for name in PAGES[command]:
        (tmp_path / 'run' / name).write_text(PRECIOUS)
        assert main([command, str(tmp_path / 'run')]) == 2
        assert (tmp_path / 'run' / name).read_text() == PRECIOUS and name in capsys.readouterr().err
        (tmp_path / 'run' / name).unlink()
    for _ in range(2): assert main([command, str(tmp_path / 'run')]) == 0


def test_a_picture_of_somebody_else(tmp_path, monkeypatch):
    "In the folder of the demo"
    from matplotlib.figure import Figure

    monkeypatch.setattr(demo, 'plot_compare', lambda comparison: Figure())
    for _ in range(2): demo._pictures(None, tmp_path)
    for name in ('accuracy_by_round.png', 'accuracy_by_round.svg'):
        (tmp_path / name).write_text(PRECIOUS)
        with pytest.raises(LLM2LLMError, match=name): demo._pictures(None, tmp_path)
        assert (tmp_path / name).read_text() == PRECIOUS
        (tmp_path / name).unlink()


@pytest.mark.parametrize('call,code', [('open', errno.EACCES), ('fsync', errno.EINVAL), ('fsync', errno.ENOTSUP)])
def test_a_disk_that_syncs_no_folder(call, code, tmp_path, monkeypatch):
    "Some network disks refuse; that a file does not reach the disk is an error as before"

    def refuses(*args): raise OSError(code, os.strerror(code))

    (tmp_path / 'a').write_text('1')
    monkeypatch.setattr(os, call, refuses)
    _sync_one(tmp_path)
    with pytest.raises(OSError): _sync_one(tmp_path / 'a')
    with pytest.raises(OSError): _sync(tmp_path)
