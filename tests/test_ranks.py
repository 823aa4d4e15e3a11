"Two processes under torchrun do the run that one does: same rows, same decisions, weights equal but for rounding."

import json, os, socket, subprocess, sys

import pytest
from safetensors.torch import load_file

import warm

from llm2llm.store.folder import read_jsonl

WORDS = [
    '--task',
    'mini-gsm',
    '--task.n_seed',
    '31',
    '--task.n_test',
    '20',
    '--rounds',
    '1',
    '--max_per_seed_row',
    '2',
    '--test_every_round',
    '--student.device',
    'cpu',
]


def launch(folder, words, processes, **env):
    "One run of so many ranks, in the environment that torchrun gives them; exit status and output of rank 0, all errors"
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        meet = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(free.getsockname()[1]))
    seats = [dict(RANK=str(i), LOCAL_RANK=str(i), WORLD_SIZE=str(processes), **meet) for i in range(processes)]
    command = [sys.executable, '-m', 'llm2llm', 'run', *words, '--output_dir', str(folder)]
    how = dict(stdout=warm.PIPE, stderr=warm.PIPE, text=True)
    ranks = [warm.Popen(command, env=os.environ | seat | env, **how) for seat in (seats if processes > 1 else [{}])]
    try: said = [p.communicate(200) for p in ranks]
    finally:
        for p in ranks: p.kill()
    status = max(abs(p.returncode) for p in ranks)
    return subprocess.CompletedProcess(command, status, ''.join(o for o, _ in said), ''.join(e for _, e in said))


@pytest.mark.parametrize('extra', [[], ['--student.lora_r', '8', '--student.per_device_train_batch_size', '2', '--student.learning_rate', '0.01']], ids=['whole', 'adapter'])
def test_two_processes_make_the_run_of_one(tmp_path, extra):
    for n in (1, 2):
        done = launch(tmp_path/str(n), WORDS + extra, n)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count('stopped:') == 1   # rank 0 alone speaks
    one, two = tmp_path/'1', tmp_path/'2'
    files = sorted(p.relative_to(one).as_posix() for p in one.rglob('*') if p.is_file())
    assert files == sorted(p.relative_to(two).as_posix() for p in two.rglob('*') if p.is_file())
    assert len(read_jsonl(one/'round_01/train.jsonl')) > 31
    for f in files:  # everything that decides is the same to the byte
        if f.endswith(('train.jsonl', 'answers.jsonl', 'candidates.jsonl')):
            assert (one / f).read_bytes() == (two / f).read_bytes(), f
    for r in range(2):
        a, b = (json.loads((p/f'round_{r:02}/metrics.json').read_text()) for p in (one, two))
        assert abs(a.pop('loss')-b.pop('loss')) < 1e-3 and a['steps'] > 10
        for m in (a, b): m.pop('padding')   # a rank pads its own half
        assert a == b
        weights = [load_file(next((p/f'round_{r:02}/student').glob('*.safetensors'))) for p in (one, two)]
        off = max((weights[0][k]-weights[1][k]).abs().max().item() for k in weights[0])
        assert off < 1e-3, off


def test_a_mistake_ends_all_processes_with_one_message(tmp_path):
    done = launch(tmp_path/'run', [*WORDS, '--student.batch_size', '7'], 2)
    assert done.returncode != 0 and 'cannot be shared out among 2 processes' in done.stderr


def test_an_error_at_rank_0_does_not_leave_the_other_waiting(tmp_path):
    (tmp_path/'run').mkdir()
    (tmp_path/'run'/'mine.txt').write_text('keep')
    done = launch(tmp_path/'run', WORDS, 2)
    assert done.returncode != 0 and 'is not empty and holds no run' in done.stderr


def test_drawn_answers_do_not_depend_on_the_number_of_processes(tmp_path):
    "Nor on being started by `accelerate launch`; the chapter on ranks starts them by `torchrun`"
    code = '''
import sys
from llm2llm.student import distributed as ranks
from llm2llm.mini.mini import mini_student, mini_task
task = mini_task('mini-gsm', n_seed=16, n_test=21)
student = mini_student(max_steps=4, per_device_eval_batch_size=4)
assert ranks.world() == int(sys.argv[1])
student.start_workers()
student.train([(task.prompt(r), task.completion(r)) for r in task.seed_rows])
told = []
said = student.generate([task.prompt(r) for r in task.test], temperature=1., seeds=range(21), max_new_tokens=12, on_completion=lambda i,c: told.append((i, c)))
assert dict(told) == dict(enumerate(said)) and len(told) == 21
print([c.text for c in said])
'''
    (tmp_path/'draw.py').write_text(code)
    options = '--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no'
    launcher, out = ['-m', 'accelerate.commands.launch', *options.split()], []
    for n, words in ((1, []), (2, launcher)):   # a launcher that is warm starts cold processes
        done = warm.run(
            [sys.executable, *words, str(tmp_path / 'draw.py'), str(n)],
            capture_output=True,
            text=True,
            timeout=300,
            env=os.environ | dict(OMP_NUM_THREADS='1'),
        )
        assert done.returncode == 0, done.stderr[-3000:]
        out.append(done.stdout)
    assert out[0] == out[1]


def test_a_sharded_student_is_refused(tmp_path):
    done = launch(tmp_path / 'run', WORDS, 2, ACCELERATE_USE_FSDP='true')
    assert done.returncode != 0 and 'accelerate is set to FSDP' in done.stderr
