"What nbs/05_loop/04_loop.ipynb and nbs/09_cli/03_commands.ipynb cannot show of new questions: pipes, files, places, plain transformers."

import io, json, shlex, shutil, sys

import pandas as pd
import pytest
import torch
from peft import AutoPeftModelForCausalLM

from llm2llm import LLM2LLM, Student, mini_base, mini_student, mini_task
from llm2llm.cli.main import main
from llm2llm.core import Example, SettingError
from llm2llm.report.export import predict
from llm2llm.report.record import hub_name
from llm2llm.student.decoding import Completion
from llm2llm.student.tokens import encode_completions, encode_prompts
from llm2llm.tasks.task import Task

FIELDS = ['id', 'question', 'prediction', 'completion', 'truncated']
SURE = ['probability', 'probabilities']


@pytest.fixture(scope='module')
def done(tmp_path_factory):
    "A finished run of a label task, and new questions"
    task = mini_task('mini-intent', n_seed=14, n_test=8, n_dev=0)
    student = mini_student('mini-intent', lora_r=4, num_train_epochs=6, dtype='float32')
    run = LLM2LLM(task, student, None, tmp_path_factory.mktemp('done') / 'run').fit(verbose=False)
    return run, [r.question for r in task.test]


def by_hand(model, tokenizer, prompt, options):
    "The probability of each option: at each place a softmax over what the options allow, by plain transformers"
    known, out = encode_completions(tokenizer, options), []
    start = encode_prompts(tokenizer, [prompt])[0]
    for option in known:
        p = 1.0
        for k, token in enumerate(option):
            may = sorted({o[k] for o in known if o[:k] == option[:k]})
            with torch.no_grad(): scores = model(input_ids=torch.tensor([start + option[:k]])).logits[0, -1]
            p *= scores[may].double().softmax(-1)[may.index(token)].item()
        out.append(p)
    return out


def test_probabilities_are_those_of_plain_transformers(done):
    run, questions = done
    found = run.predict(questions, probabilities=True)
    assert [*found] == FIELDS + SURE
    plain = AutoPeftModelForCausalLM.from_pretrained(run.folder.student(0), dtype='float32')
    for _, row in found.iterrows():
        task, sure = run.task, row['probabilities']
        asked = Example('', row['question'], '')
        assert [*sure] == [*task.labels] and abs(sum(sure.values()) - 1) < 1e-12
        hand = by_hand(plain, run.student.tokenizer, task.prompt(asked), task.options(asked))
        assert max(abs(a - b) for a, b in zip(sure.values(), hand)) < 1e-5
        assert row['probability'] == sure[row['prediction']]


def test_answers_are_the_same_with_and_without(done):
    run, questions = done
    plain, sure = run.predict(questions), run.predict(questions, probabilities=True)
    assert plain.to_json() == sure[FIELDS].to_json() and [*plain] == FIELDS
    some = run.predict(questions, min_probability=sorted(sure['probability'])[4])
    assert [p is None for p in some['prediction']].count(True) == 4
    assert [*some['completion']] == [*sure['completion']] and [*some['probability']] == [*sure['probability']]
    again = predict(run.folder.path, questions, probabilities=True)
    assert again.to_json() == sure.to_json()


def test_letters_have_probabilities_too(tmp_path):
    rows = [Example(f'r{i}', f'Which is {i}?', str(i), (str(i), str(i + 1), str(i + 2))) for i in range(2, 6)]
    task = Task('own', 'choice', '{question}\n{choices}\nAnswer:', seed_rows=tuple(rows))
    run = LLM2LLM(task, mini_student(num_train_epochs=1), None, tmp_path / 'run').fit(verbose=False)
    asked = [Example(f'q{i}', f'Which is {i}?', '', tuple(map(str, range(7, i + 1)))) for i in range(8, 20)]
    found = run.predict(asked, probabilities=True).to_dict('records')
    assert [*found[0]['probabilities']] == ['A', 'B'] and [*found[1]['probabilities']] == ['A', 'B', 'C']
    for d in found:   # letters differ in their first token: one softmax, and the chosen one is the likeliest
        assert d['prediction'] == max(d['probabilities'], key=d['probabilities'].get)
        assert d['probability'] == max(d['probabilities'].values())
    with pytest.raises(SettingError, match='question 0 has no choices.*--file FILE --choices COLUMN'):
        run.predict('Which is 8?')


def test_no_options_no_probabilities(tmp_path, capsys, monkeypatch):
    run = tmp_path / 'run'
    task = mini_task('mini-gsm', n_seed=4, n_test=4)
    LLM2LLM(task, mini_student(max_steps=1), None, run).fit(verbose=False)
    for words in (['--probabilities'], ['--min_probability', '.5']):
        assert main(['predict', str(run), '--ask', '1 + 1?', '--base', 'mini', *words]) == 2
        said = capsys.readouterr().err
        assert "kind 'number' has no options" in said and 'leave out probabilities and min_probability' in said
    said = [' #### 4', ' no idea']   # one of them without an answer, which is None and not nan
    monkeypatch.setattr(Student, 'generate', lambda *a, **k: [Completion(t) for t in said])
    assert [*predict(run, ['q', 'r'])['prediction']] == ['4', None]


@pytest.mark.parametrize('text', ['{q}\n\n{r}\r\n', '{{"question": "{q}"}}\n{{"question": "{r}"}}'])
def test_questions_through_a_pipe(done, text, monkeypatch, capsys):
    run, (q, r, *_) = done
    monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(text.format(q=q, r=r).encode())))
    assert main(['predict', str(run.folder.path), '--file', '-', '--base', 'mini']) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [d['question'] for d in found] == [q, r] and found[0]['id'] == 'standard input:1'
    assert [d['prediction'] for d in found] == [*run.predict([q, r])['prediction']]


READ = dict(jsonl=lambda p: pd.read_json(p, lines=True, dtype=False), csv=pd.read_csv, parquet=pd.read_parquet)

WRITTEN = dict(
    jsonl=lambda f, p: f.to_json(p, orient='records', lines=True),
    csv=lambda f, p: f.to_csv(p),
    parquet=lambda f, p: f.to_parquet(p),
)


@pytest.mark.parametrize('ending', READ)
def test_answers_in_a_file(done, ending, tmp_path, capsys):
    "By its ending, the columns in their order; written again where it is our own, and nothing else is replaced"
    run, questions = done
    (tmp_path / 'q.csv').write_text('question\n' + ''.join(f'"{q}"\n' for q in questions))
    out = tmp_path / f'said.{ending}'
    words = ['predict', str(run.folder.path), '--file', str(tmp_path / 'q.csv'), '--base', 'mini']
    words += ['--output_file', str(out), '--min_probability', '0.5']
    assert main(words) == 0 == main(words)
    found, said = READ[ending](out), run.predict(questions, min_probability=0.5)
    assert [*found] == FIELDS + SURE and [*found['probability'].round(9)] == [*said['probability'].round(9)]
    assert [p if isinstance(p, str) else None for p in found['prediction']] == [*said['prediction']]
    sure = found['probabilities'][0]
    assert (json.loads(sure) if ending == 'csv' else sure) == pytest.approx(said['probabilities'][0])
    WRITTEN[ending](pd.DataFrame(dict(id=['mine'])), out)
    mine = out.read_bytes()
    assert main(words) == 2 and out.read_bytes() == mine
    assert 'was not written by this command' in capsys.readouterr().err


@pytest.mark.parametrize('command', ['predict {run} --file {rows}', 'check {rows}', 'score gsm8k {rows}'])
def test_an_ending_that_nobody_writes(done, command, tmp_path, capsys):
    (tmp_path / 'rows.jsonl').write_text('{"question": "q", "answer": "#### 1", "completion": "#### 1"}\n')
    words = command.format(run=done[0].folder.path, rows=tmp_path / 'rows.jsonl').split()
    assert main([*words, '--output_file', str(tmp_path / 'said.xlsx')]) == 2
    assert "unknown file type '.xlsx'; known: .jsonl, .csv, .parquet" in capsys.readouterr().err
    if command.startswith('predict'): return
    assert main([*words, '--output_file', str(tmp_path / 'said.csv')]) == 0
    assert len(pd.read_csv(tmp_path / 'said.csv')) == 1


def test_a_run_made_with_relative_paths_is_asked_from_anywhere(tmp_path, monkeypatch, capsys):
    "As its last lines say, spaces in its path and all; a run of before, whose adapter names a relative base, too"
    here, away = tmp_path / 'my runs', tmp_path / 'away'
    here.mkdir(), away.mkdir()
    shutil.copytree(mini_base(), here / 'base')
    monkeypatch.chdir(here)
    words = 'run --task mini-intent --task.n_seed 7 --task.n_test 4 --teacher none --student base --student.lora_r 4 --student.num_train_epochs 1'
    assert main([*words.split(), '--output_dir', str(here / 'first run')]) == 0
    lines = [line.removeprefix('Next:').strip() for line in capsys.readouterr().out.splitlines()[-3:]]
    monkeypatch.chdir(away)
    program, *ask = shlex.split(lines[0])
    assert (program, ask[0]) == ('llm2llm', 'predict') and main(ask) == 0
    assert [shlex.split(line)[1] for line in lines[1:]] == ['ledger', 'export']
    assert main(shlex.split(lines[1])[1:]) == 0
    config = here / 'first run' / 'round_00' / 'student' / 'adapter_config.json'
    said = json.loads(config.read_text())
    assert said['base_model_name_or_path'] == str(here / 'base')
    config.write_text(json.dumps(said | dict(base_model_name_or_path='base')))
    assert main(ask) == 0


@pytest.mark.parametrize('name,digest,hub', [('me/base', 'a' * 16, 'me/base'), ('gpt2', 'a' * 40, 'gpt2'), ('base', 'a' * 16, None)])
def test_names_of_bases(name, digest, hub):
    assert hub_name(dict(model_name_or_path=name, base_digest=digest)) == hub


def test_a_folder_of_a_base_is_kept_from_the_root(tmp_path, monkeypatch):
    shutil.copytree(mini_base(), tmp_path / 'base')
    monkeypatch.chdir(tmp_path)
    assert Student('base').model_name_or_path == str(tmp_path / 'base')
