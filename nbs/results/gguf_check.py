"""Are the GGUF files of an export right? A student is fine-tuned on 60 rows of TREC and exported, and 100 dev
rows are asked through llama.cpp, in the turn of the Modelfile, and through transformers.

python nbs/results/gguf_check.py NAME FOLDER_OF_A_CHAT_MODEL FOLDER_OF_TREC PACKAGES [--max_steps 30]

PACKAGES is the folder where `npm i node-llama-cpp@3.22.1` was run. The bases of the NAMEs random-qwen2,
random-qwen3 and random-llama3 are made here, of random weights, with the vocabulary of the model. A NAME that
begins with tokenizers compares token ids only, in all ways of splitting. Each NAME is an entry of gguf.json.
"""
import argparse, json, re, shlex, subprocess, sys, tempfile, time
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
RAW = HERE / 'raw' / 'gguf.json'
ROWS, SEED_ROWS = 100, 60


def tokenizer_that_splits(tokenizer_of, way, folder):
    "A tokenizer with the vocabulary of another and one of llama.cpp's ways of splitting"
    from llm2llm.student.gguf import SPLITS
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(tokenizer_of).save_pretrained(folder)
    path, (steps, skips) = Path(folder, 'tokenizer.json'), SPLITS[way]
    its = json.loads(path.read_text())
    steps = [s | dict(trim_offsets=True) if s['type'] == 'ByteLevel' else s for s in steps]
    its['pre_tokenizer'] = dict(type='Sequence', pretokenizers=steps)
    its['model']['ignore_merges'] = skips
    path.write_text(json.dumps(its))
    settings = Path(folder, 'tokenizer_config.json')  # a class of its own would bring its own splitting
    its = json.loads(settings.read_text()) | dict(tokenizer_class='TokenizersBackend')
    settings.write_text(json.dumps(its))
    return AutoTokenizer.from_pretrained(folder)


def random_base(kind, tokenizer_of, folder, way):
    "A model of random weights, about ten million, large enough that each layer matters"
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = tokenizer_that_splits(tokenizer_of, way, folder)
    torch.manual_seed(0)
    rope = dict(rope_type='llama3', factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
    rope |= dict(rope_theta=1e4, original_max_position_embeddings=64)  # prompts are longer
    more = {} if kind == 'qwen2' else dict(head_dim=32)
    if kind == 'llama': more |= dict(rope_parameters=rope)
    size = dict(hidden_size=64, intermediate_size=160, num_hidden_layers=4)
    heads = dict(num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=4096)
    config = AutoConfig.for_model(kind, initializer_range=0.15, eos_token_id=tokenizer.eos_token_id,
                                  vocab_size=151_936, **size, **heads, **more)
    model = AutoModelForCausalLM.from_config(config)
    for name, p in model.named_parameters():
        if name.endswith('norm.weight'): torch.nn.init.uniform_(p, 0.5, 1.5)
        if name.endswith('.bias'): torch.nn.init.uniform_(p, -0.5, 0.5)
    model.save_pretrained(folder)
    return folder


RANDOM = {'random-qwen2': ('qwen2', 'qwen2'), 'random-qwen3': ('qwen3', 'qwen2'),
          'random-llama3': ('llama', 'llama-bpe')}
ODD = (
    "It's 12,345.67 °C; DON'T  panic!!\n\n  x\t1٢٣½ naïve café 你好，世界 \u200b👩‍🔬 ...\r\n",
    ' a', 'a ', '\n\n\n', '   \n x', "they'll we'RE 2024-11-30T12:00:00Z",
    'def f(x):\n    return x**2  # {}[]', 'Приве́т, как дела? 100500 रु ၁၂၃ ไทย',
)  # fmt: skip


def tokenizers(tokenizer_of, data, packages):
    "How many of many texts are other tokens in llama.cpp, by the way of splitting"
    from llm2llm import load_task
    from llm2llm.student.gguf import SPLITS, write_gguf
    from llm2llm.student.tokens import encode_prompts
    from transformers import AutoTokenizer

    texts = [*ODD, *(r.question for r in load_task('trec', data).test)]
    found = dict(texts=len(texts))
    for way in SPLITS:
        with tempfile.TemporaryDirectory() as folder:
            base = Path(random_base('qwen3', tokenizer_of, folder, way))
            ids = encode_prompts(AutoTokenizer.from_pretrained(base), texts)
            release, its_ids, *_ = by_llama(packages, write_gguf(base, base / 'x.gguf'), texts, 1, 1)
        found[way] = sum(a != b for a, b in zip(ids, its_ids))
    return found | dict(llama_cpp=release)


def exported(base, data, folder, **settings):
    "A fine-tuned student's export, its task, and the longest answer"
    from llm2llm import LLM2LLM, Student, load_task
    from llm2llm.report.export import export

    task = load_task('trec', data, n_seed=SEED_ROWS, n_dev=ROWS, seed=0)
    student = Student(base, device='cpu', **settings)
    task = replace(task, test=())
    LLM2LLM(task, student, output_dir=folder / 'run').fit(verbose=False)
    student.free()
    export(folder / 'run', folder / 'out', base=base, task=task, score=False, gguf=True)
    limit = json.loads((folder / 'out/model/generation_config.json').read_text())['max_new_tokens']
    return folder / 'out', task, limit, student.chat


def by_transformers(model, prompts, limit, chat):
    "Token ids of the prompts, probability of each answer's first token, and answers"
    import torch
    from llm2llm import Student
    from llm2llm.student.tokens import read_prompts

    student = Student(model, lora_r=0, dtype='float32', device='cpu', chat=chat)
    ids = read_prompts(student.tokenizer, prompts, student.turn)
    texts = [c.text for c in student.generate(prompts, max_new_tokens=limit)]
    with torch.no_grad():
        sure = [student.model(torch.tensor([i])).logits[0, -1].softmax(-1).max().item() for i in ids]
    return ids, sure, texts


def by_llama(packages, file, prompts, limit, threads):
    "The same from llama.cpp"
    with tempfile.NamedTemporaryFile('w', suffix='.json', encoding='utf-8') as f:
        json.dump([(p, limit) for p in prompts], f)
        f.flush()
        command = ['node', HERE / 'gguf_ask.mjs', packages, file, f.name, str(threads)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    rows = found['rows']
    return found['release'], *([r[k] for r in rows] for k in ('prompt', 'confidence', 'text'))


def compared(out, task, limit, chat, packages, threads):
    "What differs between llama.cpp and transformers, by type of file"
    prompts = [task.prompt(r) for r in task.dev]
    turn = re.search('TEMPLATE """(.*?)"""', (out / 'gguf/Modelfile').read_text(), re.DOTALL)[1]
    ids, sure, texts = by_transformers(out / 'model', prompts, limit, chat)
    right = lambda said: sum(task.score(r, t, False).correct for r, t in zip(task.dev, said))
    found = dict(rows=len(prompts), prompt_tokens=sum(map(len, ids)), kinds_of_answers=len(set(texts)),
                 right=right(texts))
    for file in sorted((out / 'gguf').glob('*.gguf')):
        start = time.time()
        asked = [turn.replace('{{ .Prompt }}', p) for p in prompts]
        release, its_ids, its_sure, its_texts = by_llama(packages, file, asked, limit, threads)
        kind = file.stem.rpartition('-')[2]
        found[kind] = dict(
            prompts_differ=sum(a != b for a, b in zip(ids, its_ids)),
            answers_differ=sum(a.strip() != b.strip() for a, b in zip(texts, its_texts)),
            largest_probability_difference=max(abs(a - b) for a, b in zip(sure, its_sure)),
            right=right(its_texts), bytes=file.stat().st_size, seconds=round(time.time() - start, 1),
        )
    return found | dict(llama_cpp=release)


def keep(name, found):
    "Put an entry into the raw results, with what made it"
    from importlib.metadata import version
    from llm2llm.store.folder import commit, versions

    words = ['python', 'nbs/results/gguf_check.py', name, 'BASE', 'TREC', 'PACKAGES', *sys.argv[5:]]
    processors = re.findall('model name.*: (.*)', Path('/proc/cpuinfo').read_text())
    machine = f'{processors[0]}, {len(processors)} cores'
    found |= dict(command=shlex.join(words), commit=commit(), machine=machine,
                  versions=versions() | dict(gguf=version('gguf')))
    have = json.loads(RAW.read_text()) if RAW.exists() else {}
    RAW.write_text(json.dumps(have | {name: found}, indent=1) + '\n')
    print(json.dumps(found, indent=1))


def main():
    parser = argparse.ArgumentParser()
    for name in ('name', 'base', 'data', 'packages'): parser.add_argument(name)
    parser.add_argument('--max_steps', type=int, default=30)
    parser.add_argument('--lora_r', type=int, default=16)
    parser.add_argument('--threads', type=int, default=1)
    args = parser.parse_args()
    if args.name.startswith('tokenizers'):
        return keep(args.name, tokenizers(args.base, args.data, args.packages))
    with tempfile.TemporaryDirectory() as folder:
        folder, base = Path(folder), args.base
        if args.name in RANDOM:
            kind, way = RANDOM[args.name]
            base = random_base(kind, base, folder / 'base', way)
        settings = dict(max_steps=args.max_steps, lora_r=args.lora_r)
        out, *rest = exported(str(base), args.data, folder, **settings)
        config = json.loads((out / 'model/config.json').read_text())
        about = dict(architecture=config['architectures'][0], dtype=config['dtype'], **settings)
        found = about | compared(out, *rest, args.packages, args.threads)
    keep(args.name, found)


if __name__ == '__main__': main()
