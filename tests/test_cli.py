"What a person may write after `llm2llm`, and in the files that it names: each mistake is answered with a sentence"
import shutil

import pytest

from llm2llm.cli.main import main
from llm2llm.mini.mini import mini_base


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
