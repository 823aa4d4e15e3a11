"""A small base model from nothing: what the base of the mini-world has read, its tokenizer, and its training.

    from pretrain import pretrain
    pretrain('mini_base_again')                              # the base that ships, about seven minutes
    pretrain('my_base', texts=open('lines.txt'), hidden=192) # one from unlabelled lines of your own

mini_base.ipynb shows the parts at work; bases.ipynb trains the bases of the other studies.
"""

import json,math,re,time
from functools import lru_cache
from pathlib import Path
from llm2llm.core import SettingError, check_int, progress, rng_for
from llm2llm.mini.mini import HE, NAMED_KINDS, OPERATIONS, SHE, fill, made_up_name, mini_base, problem
from llm2llm.store.folder import check_target


@lru_cache
def _sections():
    found = re.findall(
        r'^\[(.+)\]\n((?:.+\n)+)', (mini_base() / 'corpus.txt').read_text(encoding='utf-8'), re.M
    )
    lines = {name:body.splitlines() for name,body in found}
    lines['about'] = [l.replace('\\n', '\n') for l in lines['about']]
    for name in ('one step', 'abstract'):
        lines[name] = [[c.strip() for c in l.split('|', 1)] for l in lines[name]]
    for name in ('noun', 'verb', 'other'): lines[name] = ' '.join(lines[name]).split()
    return lines


def story(
    r, # random generator
)->tuple[str,str]: # question, worked answer
    "A chain of events that change one number"
    say,n = _sections(),r.choice((2, 2, 3, 3, 4))
    first = last = r.randint(2, 60)
    lines,told = [],[]
    while len(lines) < n:
        op = r.choice('+-*/')
        v = 2 if op in '*/' and r.random() < .3 else r.randint(2, 12 if op in '*/' else 40)
        new = OPERATIONS[op](last, v)
        if not 1 <= new <= 99: continue
        told.append(
            r.choice(say[f'event {op}'] + (say[f'event 2{op}'] if v == 2 and op in '*/' else [])).replace(
                '{v}', str(v)
            )
            + '.'
        )
        lines.append(f'{last} {op} {v} = {new}')
        last = new
    if r.random() < 0.25:
        told.insert(r.randrange(n + 1), r.choice(say['aside']).replace('{v}', str(r.randint(2, 60))))
    start = r.choice(say['start']).replace('{a}', str(first)) + '.'
    return fill(' '.join([start, *told, r.choice(say['ask'])]), {}, r), '\n'.join([*lines, f'#### {last}'])


@lru_cache
def _facts(op):
    pairs = [(a, b) for a in range(100) for b in range(op=='/', 100) if op!='/' or a%b==0]
    return [f'{a} {op} {b} = {z}' for a,b in pairs if 0 <= (z := OPERATIONS[op](a, b)) <= 99]


def _salad(r):
    say = _sections()
    noun,verb,other = (lambda k=k: r.choice(say[k]) for k in ('noun', 'verb', 'other'))
    return r.choice((
        lambda: f'The {other()} {noun()} {verb()} {other()} {noun()}.',
        lambda: f'What {other()} {noun()} {verb()} the {noun()} of {noun()}?',
        lambda: f'{verb().capitalize()} {other()} {noun()} {other()} the {noun()}',
        lambda: f'{r.choice(HE+SHE)} can {verb()} {other()} {noun()} and {verb()} a {noun()}.'))()


def _about(r):
    label = r.choice(list(NAMED_KINDS))
    return r.choice(_sections()['about']).format(v=made_up_name(label, r), kind=NAMED_KINDS[label][0])


DIET = {'facts':.15, 'salad':.05, 'about':.07, 'use':.02, 'story':.29, 'abstract':.17, 'one step':.25}


def document(
    r,              # random generator
    kind:str='',    # one of `DIET`; '': drawn by its shares
)->str:             # a text of one to six lines
    "One text of the corpus"
    kind = kind or r.choices(list(DIET), list(DIET.values()))[0]
    if kind=='facts': return '\n'.join(r.choice(_facts(r.choice('+-*/'))) for _ in range(5))
    if kind=='salad': return _salad(r)
    if kind=='about': return '\n'.join(_about(r) for _ in range(2))
    if kind=='use': return r.choice(_sections()['use'])
    return '\n'.join(story(r) if kind == 'story' else problem(*r.choice(_sections()[kind]), r)).replace(
        '\n', '\nAnswer: ', 1
    )


def corpus(
    *key, # what the texts are for, for instance ('base', 0)
):        # an endless iterator of texts
    "The texts that the base model is trained on"
    r = rng_for('corpus', *key)
    while True: yield document(r)


SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}{1,2}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
SPECIAL = ['<pad>', '<s>', '</s>']
_digits = '0123456789'
_pairs = [(a, b) for a in _digits for b in _digits]
_number_merges = [*_pairs, *[('Ġ', a) for a in _digits], *[('Ġ', a+b) for a,b in _pairs]]


def _bpe_merges(texts, vocab, split):
    "The vocabulary and merges that BPE learns from `texts` without their numbers"
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = split
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - len(_number_merges),
        special_tokens=SPECIAL,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator((re.sub(r' ?\d+', '', t) for t in texts), trainer)
    model = json.loads(tokenizer.to_str())['model']
    return sorted(model['vocab'], key=model['vocab'].get), [tuple(m) for m in model['merges']]


def make_tokenizer(
    texts,          # iterable of texts
    vocab:int=1664, # tokens, at least 500
):                  # a fast Hugging Face tokenizer
    "A byte-level BPE in which every whole number below 100 is one token"
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast
    check_int('vocab', vocab, 500)
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), 'isolated'),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    learned,merges = _bpe_merges(texts, vocab, split)
    words = list(dict.fromkeys([*learned, *(a+b for a,b in _number_merges)]))
    tokenizer = Tokenizer(models.BPE({w:i for i,w in enumerate(words)}, _number_merges+merges))
    tokenizer.pre_tokenizer,tokenizer.decoder = split,decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single='<s> $A', pair='<s> $A $B', special_tokens=[('<s>', SPECIAL.index('<s>'))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token='<pad>',
        bos_token='<s>',
        eos_token='</s>',
        padding_side='left',
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def blocks(
    tokenizer,     # a tokenizer
    texts,         # endless iterator of texts
    batch:int=42,  # blocks
    length:int=96, # tokens a block
):                 # yields integer tensors [batch, length]
    "Texts as training batches without padding"
    import torch
    ids = []
    while True:
        while len(ids) < batch*length:
            for text_ids in tokenizer([next(texts) for _ in range(200)], verbose=False)['input_ids']:
                ids += [*text_ids, tokenizer.eos_token_id]
        now,ids = ids[:batch*length], ids[batch*length:]
        yield torch.tensor(now).view(batch, length)


def tiny_llama(
    tokenizer,      # its tokenizer
    hidden:int=96,  # width
    layers:int=3,   # blocks
    heads:int=4,    # attention heads
):                  # a Llama with random weights
    "An untrained model"
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            intermediate_size=hidden * 8 // 3,
            tie_word_embeddings=True,
            initializer_range=0.5 / hidden**0.5,
            max_position_embeddings=512,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _endless(texts, seed):
    lines,r = list(texts),rng_for('pretrain', seed)
    if not lines: raise SettingError("there are no texts to train on; give at least one")
    while True: yield from r.sample(lines, len(lines))


def vocabulary_texts(
    seed:int=0, # of the corpus
    n:int=6000, # texts from it
)->list[str]:   # texts
    "What the tokenizer of the shipped base is made from: the corpus, and words that should be short"
    say,texts = _sections(),corpus('tokenizer', seed)
    starts = [
        f'{w}\n{w}'
        for w in (*HE, *SHE, *'He She They Then Each A The In There How What Is'.split())
        for _ in range(60)
    ]
    words = [
        f'{w} {w} {w} {w.capitalize()}' for k in ('noun', 'verb', 'other') for w in say[k] for _ in range(6)
    ]
    return [next(texts) for _ in range(n)] + starts + words


def pretrain(
    folder:str|Path,      # where the model goes
    steps:int=1500,       # optimiser steps
    seed:int=0,           # initial weights, order of the texts
    texts=None,           # iterable of texts; None: the corpus of the mini-world
    hidden:int=96,        # width
    layers:int=3,         # blocks
    heads:int=4,          # attention heads
    vocab:int=1664,       # tokens
    batch:int=42,         # blocks per step
    length:int=96,        # tokens per block
    learning_rate:float|None=None, # at its peak; None: 0.4 / hidden
)->dict:                  # parameters, steps, tokens, loss (mean of the last 50 steps), seconds
    "Train a base model from texts and save it"
    import torch
    check_target(folder, 'folder')
    start,threads,loss = time.perf_counter(),torch.get_num_threads(),[]
    if texts is not None: texts = list(texts)
    tokenizer = make_tokenizer(vocabulary_texts(seed) if texts is None else texts, vocab)
    data = blocks(tokenizer, corpus('base', seed) if texts is None else _endless(texts, seed), batch, length)
    torch.set_num_threads(1)
    try:
        with (
            torch.random.fork_rng(devices=[]),
            progress(check_int('steps', steps, 1), 'training the base', 'step') as bar,
        ):
            torch.manual_seed(seed)
            model = tiny_llama(tokenizer, hidden, layers, heads)
            for value in _train(model, data, steps, learning_rate or 0.4 / hidden):
                loss.append(value)
                bar.update(1)
    finally: torch.set_num_threads(threads)
    _save(model, tokenizer, Path(folder))
    return dict(parameters=sum(p.numel() for p in model.parameters()), steps=steps, tokens=steps*batch*length,
                loss=round(sum(loss[-50:])/len(loss[-50:]), 3), seconds=round(time.perf_counter()-start))


def _train(model, data, steps, learning_rate):
    "Train on `steps` batches of `data`; yields the losses"
    import torch
    opt = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=.05, betas=(.9, .98))
    warm = min(100, max(1, steps//10))
    rate = lambda s: min(1, (s+1)/warm)*(.02 + .98*.5*(1+math.cos(math.pi*min(1, s/steps))))
    schedule = torch.optim.lr_scheduler.LambdaLR(opt, rate)
    for _,batch in zip(range(steps), data):
        loss = model(input_ids=batch, labels=batch).loss
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1)
        opt.step()
        schedule.step()
        yield loss.item()


def _save(model, tokenizer, folder):
    import torch
    from transformers.utils import logging
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try: model.to(torch.bfloat16).save_pretrained(folder)
    finally:
        if bars: logging.enable_progress_bar()
    tokenizer.save_pretrained(folder)
