"Files and settings that people get wrong: each is refused with the place, the value and what to do"
import json

import pandas as pd
import pytest

from llm2llm.cli.main import main
from llm2llm.core import DataError, SettingError
from llm2llm.tasks.filters import survey
from llm2llm.tasks.files import read_rows
from llm2llm.tasks.published import load_task
from llm2llm.tasks.task import Task, read_splits

def row(question, answer, **more): return dict(question=question, answer=answer, **more)
def jsonl(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(json.dumps(r)+'\n' for r in rows), encoding='utf-8')
    return path

good = json.dumps(row('play some jazz', 'PlayMusic')).encode() + b'\n'

# what is wrong -> file name, its bytes, and what the message must say besides the file name
files = {
    'empty file': ('f.jsonl', b'', ['no rows', 'empty']),
    'only blank lines': ('f.jsonl', b'\n  \n', ['no rows']),
    'only a header': ('f.csv', b'question,answer\n', ['no rows', 'header']),
    'not JSON on one line': (
        'f.jsonl',
        good + b'{"question": "half\n' + good,
        [':2', 'not JSON', '{"question": "half'],
    ),
    'a JSON list in lines': ('f.jsonl', b'[\n' + good + b']', [':1', 'one object on each line']),
    'a line that is no object': ('f.jsonl', good + b'"text"\n', [':2', "'text'", 'not an object']),
    'missing column': (
        'f.jsonl',
        good + b'{"question": "q", "label": "x"}',
        [':2', "no column 'answer'", 'found: question, label', 'answer=NAME (--task.answer NAME)'],
    ),
    'missing column in CSV': (
        'f.csv',
        b'Question,answer\nq,a\n',
        [':2', "no column 'question'", "did you mean 'Question'?"],
    ),
    'a column twice': ('f.csv', b'question,answer,answer\nq,a,b\n', [':1', "'answer'"]),
    'duplicate ids': (
        'f.jsonl',
        b'{"id":"r7","question":"a","answer":"x"}\n{"id":"r7","question":"b","answer":"y"}\n',
        [":2", "'r7'", "f.jsonl:1;"],
    ),
    'an answer that is a number': (
        'f.jsonl',
        good + b'{"question": "2+2?", "answer": 4}',
        [':2', 'answer is 4 (int)', 'in quotes'],
    ),
    'an answer that is a list': ('f.jsonl', b'{"question": "q", "answer": ["x"]}', [':1', "['x'] (list)"]),
    'an answer that is true': ('f.jsonl', b'{"question": "q", "answer": true}', [':1', 'True (bool)']),
    'no answer': ('f.jsonl', good + b'{"question": "q", "answer": null}', [':2', 'answer is empty']),
    'empty question': ('f.csv', b'question,answer\n  ,x\n', [':2', 'question is empty']),
    'a 100 kB row': (
        'f.jsonl',
        good + json.dumps(row('x' * 100_000, 'y')).encode(),
        [':2', '100,001 characters', '50,000', "'xxx"],
    ),
    'a 100 kB row in CSV': (
        'f.csv',
        b'question,answer\nq,a\n' + b'x' * 100_000 + b',y\n',
        [':3', '100,001 characters'],
    ),
    'a 200 kB cell': ('f.csv', b'question,answer\n' + b'x' * 200_000 + b',y\n', [':2', 'a row of 200,001 characters']),
    'a quote never closed': ('f.csv', b'question,answer\nq,a\n"half,b\nq,c\n', [':3', 'not CSV']),
    'a comma not quoted': (
        'f.csv',
        b'question,answer\nsun, or rain,GetWeather\n',
        [':2', '3 cells', 'double quotes'],
    ),
    'invalid UTF-8': (
        'f.jsonl',
        good + b'{"question": "caf\xe9", "answer": "x"}',
        [':2', 'byte 18', '0xe9', 'UTF-8'],
    ),
    'invalid UTF-8 in CSV': ('f.csv', b'question,answer\nq,a\ncaf\xe9,x\n', [':3', 'byte 4', '0xe9']),
    'UTF-16': ('f.csv', 'question,answer\nq,a\n'.encode('utf-16'), [':1', 'byte 1', 'UTF-8']),
    'half a character': ('f.jsonl', b'{"question": "\\ud83d", "answer": "x"}', [':1', 'surrogate']),
    'not Parquet': ('f.parquet', good, ['not a Parquet file']),
    'not a known type': ('f.xlsx', b'PK', ["'.xlsx'"]),
}


@pytest.mark.parametrize('what', files)
def test_file(tmp_path, what):
    name,content,says = files[what]
    (tmp_path/name).write_bytes(content)
    with pytest.raises(DataError) as e: read_rows(tmp_path/name)
    message = str(e.value)
    assert str(tmp_path/name) in message and not [s for s in says if s not in message], message
    assert len(message) < 400 + len(str(tmp_path)), 'a long value must be cut'

def test_parquet_names_the_row(tmp_path):
    import pyarrow as pa, pyarrow.parquet as pq
    pq.write_table(pa.table(dict(question=['q1', 'q2'], answer=['a', None])), tmp_path/'f.parquet')
    with pytest.raises(DataError, match='f.parquet:2: answer is empty'): read_rows(tmp_path/'f.parquet')

def test_mark_of_excel_is_accepted(tmp_path):
    (tmp_path/'f.csv').write_bytes(b'\xef\xbb\xbfquestion;answer\r\nq;a\r\n')
    (tmp_path/'f.jsonl').write_bytes(b'\xef\xbb\xbf' + good)
    assert [len(read_rows(tmp_path/f)) for f in ('f.csv', 'f.jsonl')] == [1, 1]

def test_no_such_file(tmp_path):
    jsonl(tmp_path/'seed.jsonl', row('q', 'a'))
    with pytest.raises(DataError, match="seeds.jsonl: no such file; did you mean 'seed.jsonl'"):
        read_rows(tmp_path / 'seeds.jsonl')
    with pytest.raises(DataError, match='no such file'): read_rows(tmp_path/'nowhere'/'seed.jsonl')
    with pytest.raises(DataError, match='this is a folder, and a file of rows is wanted'):
        Task.from_files(tmp_path)


moods = [row(f'sentence {i}', ('glad', 'sad')[i%2]) for i in range(10)]

def test_label_set_of_one(tmp_path):
    seed = jsonl(tmp_path/'seed.jsonl', *[row(f'q{i}', 'glad') for i in range(4)])
    with pytest.raises(
        DataError, match="seed.jsonl: every seed row has the answer 'glad': a label set of one"
    ):
        Task.from_files(seed)
    for few in (['glad'], ['glad', 'Glad'], []):
        with pytest.raises(SettingError, match='at least two different names'):
            Task.from_files(seed, labels=few, kind='label')


def test_label_not_in_the_set(tmp_path):
    seed, test = (
        jsonl(tmp_path / 'seed.jsonl', *moods),
        jsonl(tmp_path / 'test.jsonl', row('q', 'sad'), row('r', 'gald')),
    )
    with pytest.raises(
        DataError,
        match=r"test.jsonl:2: 'gald': .*2 labels of the seed rows \(glad, sad\); did you mean 'glad'\?",
    ):
        Task.from_files(seed, test=test)
    with pytest.raises(DataError, match="seed.jsonl:1: 'glad': .*did you mean 'glade'"):
        Task.from_files(seed, labels=['glade', 'sad'])


def test_answers_that_are_quotes(tmp_path):
    marks = '"\'«„‹([{<—'
    rows = [row(f'Which mark opens style {i}?', mark) for i, mark in enumerate(marks)]
    task = Task.from_files(jsonl(tmp_path / 'seed.jsonl', *rows), dev=False)
    assert [r.answer for r in task.seed_rows] == [*marks]
    assert all(task.score(r, task.completion(r)).correct for r in task.seed_rows)


BLOOD = dict(choices=['O', 'A', 'B', 'AB'])

def test_letters_are_decided_for_the_column(tmp_path):
    def read(*rows): return [r.answer for r in read_rows(jsonl(tmp_path/'c.jsonl', *rows), choices='choices')]
    colours = [row('q1', 'B', choices=['red', 'blue'])]
    assert read(row('q2', 'A', **BLOOD), *colours) == ['O', 'blue'], 'one letter for sure: all are letters'
    assert read(row('q2', 'A', **BLOOD), row('q3', 'O', **BLOOD)) == ['A', 'O'], 'one text for sure'
    assert read(row('q2', 'A', **BLOOD)) == ['A'], 'nothing says letters'
    assert read(row('q2', 'AB', choices=['x', 'y', 'z'])) == ['AB'], 'two letters name no choice'
    with pytest.raises(DataError, match=r"c.jsonl:3: the answer 'B' is the letter .* at \S*c.jsonl:1 .* 'O'; "):
        read(row('q2', 'O', **BLOOD), row('q3', 'A', **BLOOD), *colours)


def test_files_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    jsonl(tmp_path / 'seed.jsonl', *moods)
    assert len(Task.from_files('~/seed.jsonl', dev=False).seed_rows) == len(moods)


def test_labels_that_look_alike_are_one(tmp_path):
    "and the note tells them apart; a student could not"
    words = ['ready', 'ready\u200b', 'caf\u00e9', 'cafe\u0301'] * 4
    seed = jsonl(tmp_path / 'seed.jsonl', *[row(f'item {i}', w) for i, w in enumerate(words)])
    task = Task.from_files(seed)
    assert task.labels == ('caf\u00e9', 'ready')
    assert {r"'ready' and 'ready\u200b' count as one label", r"'caf\xe9' and 'cafe\u0301' count as one label"} < {*task.notes}


def test_one_bad_row_does_not_change_the_kind_of_a_task(tmp_path):
    rows = [row(f'{i} and {i}?', f'{i}+{i}={2 * i}\n{"#" * (3 if i == 4 else 4)} {2 * i}') for i in range(1, 31)]
    with pytest.raises(DataError, match=r'seed.jsonl:4: .*no number after ####'):
        Task.from_files(jsonl(tmp_path / 'seed.jsonl', *rows))
    assert Task.from_files(jsonl(tmp_path / 'good.jsonl', *rows[:3], *rows[4:])).kind == 'number'


def test_columns_of_one_name(tmp_path):
    import pyarrow, pyarrow.parquet

    names = ['question', 'answer', 'answer']
    table = pyarrow.Table.from_arrays([pyarrow.array(['x', 'y'])] * 3, names=names)
    pyarrow.parquet.write_table(table, tmp_path / 'f.parquet')
    frame = pd.DataFrame([['q', 'a', 'b']], columns=names)
    (tmp_path / 'f.jsonl').write_text('{"question": "q", "answer": "a", "answer": "b"}')
    for source in (tmp_path / 'f.parquet', tmp_path / 'f.jsonl', frame):
        with pytest.raises(DataError, match="'answer'"): read_rows(source)


def test_same_question_with_two_answers(tmp_path):
    seed = jsonl(tmp_path/'seed.jsonl', *moods, row('sentence  3', 'glad', id='mine'))
    with pytest.raises(
        DataError,
        match="seed.jsonl:11: .*'sentence  3'.*'glad', but 'sentence 3' at .*seed.jsonl:4 has 'sad'; keep one",
    ):
        Task.from_files(seed)


def test_nearly_the_same_question_with_two_answers(tmp_path):
    "Case and punctuation can make another question of it (net and .NET), so both rows stay, and a note names them"
    seed = jsonl(
        tmp_path / 'seed.jsonl',
        *moods,
        row('q 0', 'glad'),
        row('Q 0.', 'sad'),
        row('q 1', 'sad'),
        row('Q 1', 'sad'),
    )
    task = Task.from_files(seed)
    note, = [n for n in task.notes if 'two answers' in n]
    assert len(task.seed_rows) == 14 and note.startswith('kept 1 seed question with two answers')
    assert f"{seed}:12: the question 'Q 0.' has the answer 'sad', but 'q 0' at {seed}:11 has 'glad'" in note

def test_seed_row_in_test(tmp_path):
    seed, test = (
        jsonl(tmp_path / 'seed.jsonl', *moods),
        jsonl(tmp_path / 'test.jsonl', row('Sentence 3!', 'sad'), row('other', 'glad')),
    )
    task = Task.from_files(seed, test=test)
    assert (
        len(task.seed_rows) == 9
        and len(task.test) == 2
        and 'dropped 1 seed row whose question is also in test' in task.notes
    )
    with pytest.raises(DataError, match="seed.jsonl:4: the same question is in the test rows"):
        Task.from_files(seed, test=test, overlap='refuse')
    with pytest.raises(DataError, match='all 10 seed rows are also in test'): Task.from_files(seed, test=seed)

def test_choices_that_lack_the_answer(tmp_path):
    seed = jsonl(
        tmp_path / 'seed.jsonl', row('q', 'red', c=['red', 'blue']), row('r', 'green', c=['red', 'blue'])
    )
    with pytest.raises(DataError, match="seed.jsonl:2: 'green': the answer is not one of the choices"):
        Task.from_files(seed, choices='c')
    with pytest.raises(SettingError, match='choices=COLUMN'): Task.from_files(seed, kind='choice')

def test_worked_answer_without_its_number(tmp_path):
    seed = jsonl(tmp_path/'seed.jsonl', row('q', '1+1=2\n#### 2'), row('r', '4'))
    with pytest.raises(
        DataError, match="seed.jsonl:2: '4': no number after ####; end the worked answer with"
    ):
        Task.from_files(seed, kind='number')


settings = [
    (dict(kind='labels'), "did you mean 'label'"),
    (dict(overlap='refused'), "did you mean 'refuse'"),
    (dict(labels='glad'), 'list of names'),
    (dict(labels=[1, 2]), 'list of names'),
    (dict(kind='text', labels=['glad', 'sad']), "labels (--task.labels) are for a task of kind 'label'"),
    (dict(labels=['glad', 'sad', ' ']), 'name 3 of 3 is empty'),
    (dict(template='no place'), '{question}'),
]


@pytest.mark.parametrize('wrong,says', settings)
def test_setting_of_own_task(tmp_path, wrong, says):
    with pytest.raises(SettingError) as e: Task.from_files(jsonl(tmp_path/'seed.jsonl', *moods), **wrong)
    assert says in str(e.value)

@pytest.fixture
def sst2(tmp_path):
    jsonl(
        tmp_path / 'sst2' / 'train.jsonl',
        *[row(f'film {i}', ('negative', 'positive')[i % 2]) for i in range(20)],
        row('film 1', 'negative'),
    )
    jsonl(tmp_path/'sst2'/'test.jsonl', row('Film 2 .', 'negative'), row('other', 'positive'))
    return tmp_path

def test_published_set_is_cleaned_and_counted(sst2):
    task = load_task('sst2', sst2, n_seed=4)
    assert task.notes == (
        'dropped 1 train row whose question is also in test',
        'dropped 2 train rows whose question has two answers',
    )
    assert (len(task.seed_rows), len(task.pool), len(task.test)) == (4, 14, 2)

@pytest.mark.parametrize('wrong', [dict(n_seed=0), dict(n_seed=-1), dict(n_seed=2.0), dict(n_seed='4'), dict(n_dev=-1), dict(seed=-1),
                                   dict(n_seed=19), dict(n_seed=10, n_dev=10), dict(n_dev=18)])
def test_numbers_of_rows(sst2, wrong):
    with pytest.raises(SettingError) as e: load_task('sst2', sst2, **wrong)
    assert next(iter(wrong)) in str(e.value)

def test_task_and_folder(sst2):
    with pytest.raises(SettingError, match="'sst'; did you mean 'sst2'"): load_task('sst', sst2)
    with pytest.raises(DataError, match='no train.jsonl'): load_task('trec', sst2)
    with pytest.raises(DataError, match="train.jsonl:1: 'negative': this is not one of the 6 labels of trec"):
        load_task('trec', sst2 / 'sst2')


def test_no_network(monkeypatch):
    import datasets
    def fails(**_): raise ConnectionError("Couldn't reach the Hub")
    monkeypatch.setattr(datasets, 'load_dataset', fails)
    with pytest.raises(DataError, match='SetFit/sst2 .*ConnectionError.*pass data=FOLDER'):
        load_task('sst2', n_seed=4)


# What `check` says before a run does

CLEAN = [dict(question=f'{name} number {i} of a series that is {word}', answer=('glad', 'sad')[i % 2])
         for i, (name, word) in enumerate([('apple', 'long'), ('river', 'short'), ('window', 'red'), ('paper', 'old'), ('engine', 'wide'),
                                           ('garden', 'deep'), ('island', 'loud'), ('pencil', 'thin'), ('copper', 'late'), ('summer', 'warm')])]
ROW = dict(question='a wholly different thing is said here', answer='glad')
CHECKED = {   # rows besides the clean ones, rows of the test file, what is said, exit code, exit code with --strict
    'clean': ([], [ROW], '10 rows', 0, 0),
    'equal question': ([ROW], [ROW], 'equal question with', 1, 1),
    'near copy of a test row': ([ROW], [ROW | dict(question='a wholly different thing is said right here')], 'near-duplicate with', 1, 1),
    'two answers': ([ROW, ROW | dict(answer='sad')], None, 'two answers: ', 1, 1),
    'the same row twice': ([ROW, ROW], None, 'dropped 1 seed row equal to an earlier one', 0, 1),
    'near copies': ([ROW, ROW | dict(question='a wholly different thing is said right here')], None, 'near copies: ', 0, 1),
    'two answers in two spellings': ([ROW, ROW | dict(question='A wholly different thing is said here!', answer='sad')], None,
                                     'differ in case or punctuation only', 0, 1),
    'case of a label': ([ROW | dict(answer='Glad')], None, "'Glad' count as one label", 0, 1),
    'a label with a character that nobody sees': ([ROW | dict(answer='glad\u200b')], None, r"'glad\u200b' count as one label", 0, 1),
    'a label with a full stop': ([ROW | dict(answer='glad.')], None, "'glad' and 'glad.' differ in punctuation only", 0, 1),
    'unbalanced': ([ROW | dict(question=f'{w} and nothing but {w} all day') for w in 'tea salt wool iron sand rain hope mud oil ice fog tin rye gum ash oak '
                    'elm fir yew ivy hay'.split()], None, "unbalanced: 26 seed rows are 'glad' and 5 'sad'", 0, 1),
}


@pytest.mark.parametrize('name', CHECKED)
def test_what_check_finds(name, tmp_path, capsys):
    more, test, says, ends, strict = CHECKED[name]
    for file, rows in dict(own=CLEAN + more, test=test or []).items():
        (tmp_path / f'{file}.jsonl').write_text(''.join(json.dumps(r) + '\n' for r in rows), encoding='utf-8')
    words = ['check', str(tmp_path / 'own.jsonl'), *(['--against', str(tmp_path / 'test.jsonl')] if test else [])]
    assert main(words) == ends, capsys.readouterr()
    out = capsys.readouterr().out
    assert says in out, out
    assert main([*words, '--strict']) == strict, out


def test_check_says_what_a_run_says(tmp_path):
    "One owner: each note of the task is among those of `check`, beside those on splits that it does not have"
    rows = [dict(question=f'{r["question"]} {i}', answer=r['answer']) for i in range(4) for r in CLEAN]
    rows += [ROW, ROW, ROW | dict(answer='Glad', question='quite another question'), ROW | dict(answer='gladd', question='and one more of them')]
    notes = Task.from_files(rows, dev=False, labels=None).notes
    said = survey(read_splits(dict(seed=rows)))[1]
    assert len(notes) > 3 and {n for n in notes if not n.startswith('no test file')} <= {*said}
