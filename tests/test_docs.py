"The documentation: every page renders, every internal link leads somewhere, and README.md is what the index notebook says."
import re

import pytest

import pages


@pytest.fixture(scope='session')
def site(tmp_path_factory):
    work = pages.copy_project(tmp_path_factory.mktemp('docs'))
    site = work/'site'
    return pages.render(pages.process(work), site), site


def test_every_page_is_there(site, root):
    rendered, folder = site
    notebooks = [p for p in (root/'nbs').rglob('*.ipynb') if not any(part[0] in '._' for part in p.relative_to(root).parts)]
    assert len(rendered) == len(notebooks) and 'index.html' in map(str, rendered)
    assert not [p for p in rendered if len((folder/p).read_text(encoding='utf-8')) < 2000], 'pages that say nothing'


def test_links(site):
    bad, n = pages.broken(site[1])
    assert not bad
    assert n > 100


def test_the_link_check_sees_what_is_broken(tmp_path):
    (tmp_path/'a.html').write_text('<h2 id="here">A</h2><a href="#here">1</a><a href="#gone">2</a><a href="b.html">3</a>'
                                   '<a href="/a.html#here">4</a><img src="no.png"><a href="https://example.org/x">5</a>', encoding='utf-8')
    bad, n = pages.broken(tmp_path)
    assert (len(bad), n) == (3, 5)
    assert [re.search(r': (\S+)', b)[1] for b in bad] == ['#gone', 'b.html', 'no.png']


def words(md):
    "What a reader sees of README.md, whichever of the two ways wrote it: white space, comments and picture names left out."
    md = re.sub(r'<!--.*?-->|<img [^>]*>|!\[[^\]]*\]\([^)]*\)|</?(div|figure|figcaption|p)\b[^>]*>', '', md, flags=re.S)
    return re.sub(r'``` ?\{?\.?(\w+)\}?', r'```\1', md).split()


def test_readme_is_the_index_notebook(root):
    made, pictures = pages.readme()
    kept = (root/'README.md').read_text(encoding='utf-8')
    assert words(kept) == words(made), 'README.md and nbs/index.ipynb differ: run `make readme`'
    assert pictures, 'the first screen needs its picture'
    for name, data in pictures.items():
        if name in kept: assert (root/name).read_bytes() == data, f'{name} is not the picture of nbs/index.ipynb: run `make readme`'


def test_readme_leads_somewhere(root):
    md = (root/'README.md').read_text(encoding='utf-8')
    links = re.findall(r'\]\(([^)\s]+)\)|(?:src|href)="([^"]+)"', md)
    local = [a or b for a, b in links if not re.match(r'[a-z]+:|#', a or b)]
    assert local and not [l for l in local if l.startswith('/') or not (root/l.split('#')[0]).exists()]


def test_readme_begins_with_what_a_newcomer_needs(root):
    "Two sentences, a picture, the two commands, and ten lines of Python for a task of one's own."
    md = (root/'README.md').read_text(encoding='utf-8')
    order = [md.index(s) for s in ('index_files/', 'make demo', 'make test', 'from llm2llm import')]
    assert order == sorted(order)
    code = re.search(r'``` ?python\n(from llm2llm import.*?)```', md, re.S)[1]
    assert len(code.strip().splitlines()) <= 10
    import llm2llm
    used = re.search(r'from llm2llm import (.*)', code)[1].split(', ')
    assert set(used) <= set(llm2llm.__all__)
    compile(code, 'README.md', 'exec')


def test_site_settings_are_nbdevs(root, project, run):
    "nbs/nbdev.yml is what nbdev writes from pyproject.toml, and nbs/_quarto.yml is the one at the top."
    assert (root/'nbs/_quarto.yml').is_symlink() and (root/'nbs/_quarto.yml').resolve() == root/'_quarto.yml'
    work = project('site')
    run('python', '-c', 'from nbdev.quarto import refresh_quarto_yml as f; f()', cwd=work)
    assert (work/'nbs/nbdev.yml').read_text() == (root/'nbs/nbdev.yml').read_text(), 'run `make export`'
    assert (work/'nbs/_quarto.yml').is_symlink(), 'nbdev replaced the link'
