"The main job on real rows, from the command line, as the README says it."
import json

import pytest

from conftest import ROOT

SNIPS = ROOT/'tests/data/snips'


@pytest.fixture(scope='module')
def done(tmp_path_factory, run):
    out = tmp_path_factory.mktemp('job')/'snips'
    res = run(
        'llm2llm',
        'run',
        '--task',
        'snips',
        '--task.data',
        SNIPS,
        '--student',
        'mini',
        '--teacher',
        'pool',
        '--task.n_seed',
        28,
        '--rounds',
        1,
        '--select',
        'crossfit',
        '--num_folds',
        2,
        '--student.num_train_epochs',
        6,
        '--output_dir',
        out,
    )
    return out, res


def rows(path): return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]


def test_it_ends_with_a_report(done):
    out, res = done
    assert res.stderr == '' and 'stopped: rounds done' in res.stdout
    assert '<table' in (out/'report.html').read_text() and 'crossfit wrong' in (out/'report.md').read_text()
    final = json.loads((out/'final.json').read_text())
    assert final['scores']['test']['n'] == 105 and final['picked_round'] == 1


def test_its_ledger(done, run):
    "The page of the shell is that of the function; a report written after it links to it"
    out, _ = done
    res = run('llm2llm', 'ledger', out)
    assert (
        '28 seed rows' in res.stdout
        and str(out / 'ledger.html') in res.stdout
        and 'crossfit' not in res.stderr
    )
    assert all(r['id'] in (out/'ledger.html').read_text() for r in rows(out/'seed.jsonl'))
    run('llm2llm', 'report', out)
    assert 'href="ledger.html"' in (out/'report.html').read_text()


def test_its_student_answers_new_questions(done, run, tmp_path):
    "As it did within the run; one question from the shell, many from a file"
    out, _ = done
    said = {a['id']: a['prediction'] for a in rows(out/'round_01/test_answers.jsonl')}
    run(
        'llm2llm',
        'predict',
        out,
        '--file',
        SNIPS / 'test.jsonl',
        '--base',
        'mini',
        '--output_file',
        tmp_path / 'said.jsonl',
    )
    found = rows(tmp_path/'said.jsonl')
    assert {d['id']: d['prediction'] for d in found} == said
    assert (
        run('llm2llm', 'predict', out, '--ask', found[0]['question'], '--base', 'mini').stdout
        == found[0]['prediction'] + '\n'
    )
    assert 'give one of them' in run('llm2llm', 'predict', out, status=2).stderr


def test_new_rows_are_real_rows_of_the_pool(done):
    "Each new row is a training row of the same label that is neither a seed nor a test row, and knows the mistake it was drawn for"
    out, _ = done
    train, test = ({r['question']: r for r in rows(SNIPS/f'{s}.jsonl')} for s in ('train', 'test'))
    seed = {r['id']: r for r in rows(out/'seed.jsonl')}
    new = [r for r in rows(out/'round_01/train.jsonl') if r.get('round')]
    assert new
    for r in new:
        assert (
            r['question'] in train
            and r['question'] not in test
            and r['question'] not in {s['question'] for s in seed.values()}
        )
        assert r['answer'] == train[r['question']]['answer'] == seed[r['parent_id']]['answer']
        assert (
            r['source'] == train[r['question']]['id']
            and r['teacher'] == 'pool'
            and r['wrong_completion'].strip()
        )


def test_the_numbers_come_from_the_answers(done):
    out, _ = done
    for r in (0, 1):
        metrics, said = (
            json.loads((out / f'round_{r:02}/metrics.json').read_text()),
            rows(out / f'round_{r:02}/answers.jsonl'),
        )
        assert metrics['scores']['seed'] == dict(
            n=28, correct=sum(a['correct'] for a in said), no_answer=0, truncated=0, prompt_truncated=0
        )
    new = rows(out/'round_01/train.jsonl')[28:]
    assert len(new) == json.loads((out/'round_00/metrics.json').read_text())['kept']


def test_own_files(tmp_path, run):
    "An own task from CSV, with a config file"
    lines = ['text,intent'] + [
        '"{}",{}'.format(r['question'].replace('"', "'"), r['answer'])
        for r in rows(SNIPS / 'train.jsonl')[:70]
    ]
    (tmp_path/'seed.csv').write_text('\n'.join(lines), encoding='utf-8')
    (tmp_path / 'run.yaml').write_text(
        f'task: {{seed_rows: {tmp_path}/seed.csv, question: text, answer: intent}}\nteacher: none\nstudent: {{max_steps: 4}}\n'
    )
    res = run('llm2llm', 'run', '--config', tmp_path/'run.yaml', '--output_dir', tmp_path/'run')
    assert 'found 7 labels' in res.stdout and 'no dev split' in res.stdout and 'no test file' in res.stdout
    settings = json.loads((tmp_path/'run/run.json').read_text())['settings']
    assert (
        settings['student']['max_steps'] == 4
        and settings['task']['labels'][0] == 'AddToPlaylist'
        and settings['teacher'] is None
    )


def test_mistakes_are_one_line_and_exit_code_2(tmp_path, run):
    for args, says in (
        (['--task', 'snip'], "did you mean 'snips'"),
        (['--task', 'snips', '--task.data', str(tmp_path)], str(tmp_path)),
        (['--task', 'snips', '--task.data', SNIPS, '--task.n_seed', 5000], '5000'),
        (['--task', 'snips', '--task.data', SNIPS, '--rounds', 0], 'at least 1, not 0'),
        (['--task', 'snips', '--task.data', SNIPS, '--task.n_seed', -3], '-3'),
        (['--task', 'snips', '--task.data', SNIPS, '--student', tmp_path], 'config.json'),
    ):
        err = run('llm2llm', 'run', '--teacher', 'none', *args, '--output_dir', tmp_path / 'out', status=2).stderr
        assert says in err and 'Traceback' not in err and len(err.splitlines()) == 1, err
    assert not (tmp_path/'out').exists()
