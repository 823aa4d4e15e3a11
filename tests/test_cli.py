"What a person may write after `llm2llm`, and in the files that it names: each mistake is answered with a sentence"
import pytest

from llm2llm.cli.main import main


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
