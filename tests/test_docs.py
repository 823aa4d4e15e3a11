"The documentation: every page renders, every link leads somewhere, and README.md is what the index notebook says."

import json, re, runpy, shlex, shutil, subprocess

import pytest
import yaml

import pages, warm
from browser import CHROMIUM, Browser, served
from conftest import BROWSERLESS

NAME = re.compile(r'<a href="([^"]+)"[^>]*><code>([^<]+)</code></a>')


@pytest.fixture(scope='session')
def site(tmp_path_factory):
    work = pages.copy_project(tmp_path_factory.mktemp('docs'))
    site = work/'site'
    return pages.render(pages.process(work, warm.run), site), site


def test_every_page_is_there(site, root):
    rendered, folder = site
    assert len(rendered) == len(files(root)) and str(rendered[0]) == 'index.html'
    assert not [
        p
        for p in rendered
        if len(pages.plain((folder / p).read_text(encoding='utf-8').split('<main>')[1])) < 500
    ], 'pages that say nothing'


def files(root):
    "Every notebook and every Markdown file that becomes a page, as the sidebar names it."
    found = [p.relative_to(root/'nbs') for p in (root/'nbs').rglob('*') if p.suffix in ('.ipynb', '.qmd')]
    return sorted(p.as_posix() for p in found if not any(part[0] in '._' for part in p.parts))


def test_the_sidebar_lists_every_page_once(root):
    listed = [
        file for _, part in pages.sidebar((root / '_quarto.yml').read_text(encoding='utf-8')) for file in part
    ]
    assert len(listed) == len(set(listed))
    assert sorted(listed) == files(root), 'mend `sidebar` in _quarto.yml'


def test_links(site):
    bad, n = pages.broken(site[1])
    assert not bad
    assert n > 1000


def test_links_in_the_repository(root):
    assert not pages.broken_in_repository(root)


def test_the_link_check_sees_what_is_broken(tmp_path):
    (tmp_path / 'a.html').write_text(
        '<h2 id="here">A</h2><a href="#here">1</a><a href="#gone">2</a><a href="b.html">3</a>'
        '<a href="/a.html#here">4</a><img src="no.png"><a href="https://example.org/x">5</a>'
        '<a href="https://example org">6</a><a href="htp://example.org">7</a><a href="">8</a>',
        encoding='utf-8',
    )
    bad, n = pages.broken(tmp_path)
    assert (len(bad), n) == (6, 6)
    assert [re.search(r': (.*?) (is|has) ', b)[1] for b in bad] == [
        '#gone',
        'b.html',
        'no.png',
        'https://example org',
        'htp://example.org',
        '',
    ]
    for name, md in dict(
        README='[a](#there) [b](#not-there) [c](nbs/gone.ipynb)\n\n# There',
        CHANGELOG='[d](README.md)',
        CONTRIBUTING='![e](no.png)',
    ).items():
        (tmp_path / f'{name}.md').write_text(md)
    assert [b.split()[1] for b in pages.broken_in_repository(tmp_path)] == [
        '#not-there',
        'nbs/gone.ipynb',
        'no.png',
    ]


def test_the_check_fails(site, monkeypatch, capsys):
    "`make docs-check` ends with an error if a link is broken. The pages are not rendered again for this."
    monkeypatch.setattr(pages, 'copy_project', lambda work: work)
    monkeypatch.setattr(pages, 'process', lambda work: work)
    monkeypatch.setattr(pages, 'render', lambda proc, to: shutil.copytree(site[1], to) and site[0])
    monkeypatch.setattr(pages, 'broken', lambda folder: (['core.html: #gone has no such anchor'], 1))
    with pytest.raises(SystemExit) as e: pages.main('check')
    assert e.value.code and 'core.html: #gone' in capsys.readouterr().out


# ---- the plain site

def test_names_lead_to_their_documentation(site, root):
    "A public name in backticks is a link to the entry that documents it, on every page, and relative, so that pages open from a folder."
    rendered, folder = site
    links = {
        (page, name): href
        for page in rendered
        for href, name in NAME.findall((folder / page).read_text(encoding='utf-8'))
    }
    assert len(links) > 90
    assert {'LLM2LLM', 'Task.from_files', 'Student.train', 'SettingError'} <= {name for _, name in links}
    assert not [href for href in links.values() if href.startswith('/')]
    faq = (folder/'faq.html').read_text(encoding='utf-8')
    assert 'href="/' not in faq and 'src="/' not in faq


def test_search_finds_pages_headings_and_names(site):
    rendered, folder = site
    index = json.loads((folder/'search-index.js').read_text(encoding='utf-8').removeprefix('const INDEX ='))
    kinds = {
        kind: [(text, address) for text, address, _, k in index if k == kind]
        for kind in ('page', 'heading', 'name')
    }
    assert {a for _, a in kinds['page']} == {p.as_posix() for p in rendered}
    assert ('Run.fit', '05_loop/loop.html#run.fit') in kinds['name'] and len(kinds['name']) > 200
    ids = {page.as_posix(): pages.Page((folder/page).read_text(encoding='utf-8')).ids for page in rendered}
    assert not [a for _, a in kinds['heading'] + kinds['name'] if a.split('#')[1] not in ids[a.split('#')[0]]]


def test_a_page_has_its_place(site, root):
    "The section of the sidebar is open, the page before and the page after are one click away, and the versions are named."
    page = (site[1]/'05_loop'/'loop.html').read_text(encoding='utf-8')
    [here] = re.findall(r'<details open><summary>(.*?)</summary><ul>(.*?)</ul>', page)
    assert here[0] == 'The loop' and 'href="../05_loop/loop.html" aria-current' in here[1]
    home = (site[1]/'index.html').read_text(encoding='utf-8')
    assert re.findall(r'<details open><summary>(.*?)</summary>', home) == ['Tutorials']
    assert '"><code>llm2llm compare</code></a>' in home
    assert '← A round under way' in page and 'Baselines →' in page
    assert pages.versions() in page
    assert (
        f"llm2llm {re.search(r'^version = (.*)', (root / 'settings.ini').read_text(), re.M)[1]}, torch "
        in pages.versions()
    )
    assert (root/'nbs/versions.yml').read_text(encoding='utf-8') == pages.versions_yml(), 'run `make readme`'


# Pages with wide tables, long lines, words of code that do not break, plots, a picture and maths.
SHOWN = """index.ipynb tutorials/quickstart.ipynb changelog.qmd contributing.qmd 02_tasks/07_similar.ipynb 05_loop/05_baselines.ipynb
    06_report/02a_plots.ipynb results/bases.ipynb results/paper.ipynb""".split()

LOOK = """(() => {
  const over = e => e.scrollWidth > e.clientWidth + 1, all = s => [...document.querySelectorAll(s)]
  const height = e => { const r = document.createRange(); r.selectNodeContents(e); return r.getBoundingClientRect().height }
  return {
    cut: all('main pre:not(.wide):not(.aligned)').filter(p => over(p) || [...p.children].some(over)).length,
    sideways: over(document.documentElement),
    broken_numbers: all('main td').filter(td => /^[-+]?[\\d.]+( \\(.*\\))?$/.test(td.innerText)
      && height(td) > 1.8 * parseFloat(getComputedStyle(td).lineHeight)).length,
    marks: all('main .words').length + all('main .short').length + all('main .long').length,
    dark: getComputedStyle(document.body).backgroundColor.match(/\\d+/g)[0] < 64,
    pictures: all('main img[src$=".png"]').map(e => getComputedStyle(e).filter),
  }})()"""


def looked_at(folder, profile):
    "What a reader of the pages SHOWN in `folder` meets on a desk and on a phone, in light and in dark: {(page, width, dark): ...}"
    browser, found = Browser(profile), {}
    with served(folder) as address:
        for width, dark in ((1280, False), (420, True)):
            browser.size(width, 900, dark=dark)
            for file in SHOWN:
                page = re.sub(r'(\d+[a-z]?_)?(\w+)\.\w+$', r'\2.html', file)
                seen = browser.open(address + page).js(LOOK)
                seen['foreign'] = [u for u in browser.requests if not u.startswith((address, 'about:', 'data:'))]
                seen['errors'] = [e for e in browser.errors if 'exceptionDetails' in e]
                found[page, width, dark] = seen
    browser.close()
    return found


def check_the_look(found):
    bad = 'cut', 'sideways', 'broken_numbers', 'foreign', 'errors'
    assert not [(*key, name, seen[name]) for key, seen in found.items() for name in bad if seen[name]]
    assert all(seen['dark'] == dark for (_, _, dark), seen in found.items())
    assert found['index.html', 1280, False]['pictures'] == ['none']
    assert found['index.html', 420, True]['pictures'] == ['invert(0.92) hue-rotate(180deg)'], 'a white slab on a dark page'


@pytest.fixture(scope='session')
def plain_look(site, tmp_path_factory): return looked_at(site[1], tmp_path_factory.mktemp('profile'))


@pytest.mark.skipif(CHROMIUM is None, reason=BROWSERLESS)
def test_the_look_of_the_plain_site(plain_look): check_the_look(plain_look)


@pytest.mark.skipif(CHROMIUM is None, reason=BROWSERLESS)
@pytest.mark.skipif(not shutil.which('quarto'), reason='no Quarto here')
def test_the_look_of_quartos_site(site, plain_look, tmp_path):
    "Some pages by Quarto: without a warning, nothing cut, nothing from a network, and the filter marks what it marks in the plain ones."
    proc = shutil.copytree(site[1].parent/'_proc', tmp_path/'part')
    settings = yaml.safe_load((proc/'_quarto.yml').read_text(encoding='utf-8'))
    settings['project']['render'] = SHOWN
    (proc/'_quarto.yml').write_text(yaml.safe_dump(settings), encoding='utf-8')
    done = subprocess.run(['quarto', 'render', proc], capture_output=True, text=True)
    assert done.returncode == 0 and 'WARN' not in done.stderr, done.stderr[-3000:]
    found = looked_at(proc/'_docs', tmp_path/'profile')
    check_the_look(found)
    assert {key: seen['marks'] for key, seen in found.items()} == {key: seen['marks'] for key, seen in plain_look.items()}
    assert '<loc>https://' in (proc/'_docs/sitemap.xml').read_text(encoding='utf-8')


def test_plots_take_the_ink_of_the_page(site):
    page = (site[1]/'06_report'/'display.html').read_text(encoding='utf-8')
    assert 'currentColor' in page and re.search(
        r'<svg class="plot" style="min-width: \d+px" role="img" aria-label=', page
    )


def test_what_the_filter_makes_of_code_and_tables(root):
    "Signatures without modules, output in columns told from prose, and columns of words that begin at the left."

    def made(md): return pages.piece(md, '--lua-filter', root/'nbs/site.lua')

    code = made(
        '```python\ndef f(\n    x:llm2llm.core.Example, y:llm2llm.report.record.RunRecord, a:NoneType=None\n)->__main__.Plan:\n```\n\n*Return repr(self).*'
    )
    assert (
        '__main__' not in code and 'llm2llm' not in code and 'NoneType' not in code and 'Return' not in code
    )
    assert '<pre class="aligned">' in made('    a   1\n    b   2') and '<pre>' in made(
        '    a sentence\n    and another'
    )
    assert 'width' not in made(f"| a | b |\n|-|---------|\n| x | {'long ' * 30} |")
    frame = (
        '<table border="1" class="dataframe"><thead><tr style="text-align: right;"><th></th><th>n</th><th>said</th></tr></thead>'
        '<tbody><tr><th>0</th><td>+1.5 (-2.0 to +3.0)</td><td>kept</td></tr><tr><th>1</th><td>NaN</td><td></td></tr></tbody></table>'
    )
    assert re.findall(r'<(\w+) class="(words.*?)"', made(f'```{{=html}}\n{frame}\n```')) == [
        ('th', 'words'),
        ('td', 'words short'),
        ('td', 'words short'),
    ]


def test_changelog_is_a_page(site):
    "One source: CHANGELOG.md, whose links begin at the repository's top."
    page = (site[1]/'changelog.html').read_text(encoding='utf-8')
    assert (
        '<h1>Changelog</h1>' in page
        and 'id="section' in page
        and 'href="results/mini.html"' in page
        and 'nbs/' not in page.split('<main>')[1]
    )


def test_the_changelog_has_the_names_that_errors_say(root):
    "One table of old names, `core.RENAMED`; and every module that the other table names is there."
    text = (root/'CHANGELOG.md').read_text(encoding='utf-8')
    assert text == pages.with_names(text), 'run `make readme`'
    assert '| `lr` | `learning_rate` | `--student.learning_rate` |\n' in text
    with pytest.raises(ValueError, match='needs the lines'): pages.with_names('# Changelog')
    moved = re.findall(r'^\| `(\w+)` \| (.*) \|$', text.split('### Old modules')[1].split('\n## ')[0], re.M)
    assert len(moved) > 30
    named = {name for _, new in moved for name in re.findall('`(.*?)`', new)}
    assert not [name for name in named if not (root/'llm2llm'/f"{name.replace('.', '/')}.py").is_file()]


def test_the_loop_is_drawn_by_its_script(root):
    drawn = runpy.run_path(str(root/'nbs/images/loop.py'))
    assert (root / 'nbs/images/loop.svg').read_text(encoding='utf-8') == drawn['draw'](), (
        'run nbs/images/loop.py, and the notebook'
    )
    index = json.loads((root/'nbs/index.ipynb').read_text(encoding='utf-8'))['cells']
    [cell] = [c for c in index if c['cell_type'] == 'code' and 'images/loop.svg' in ''.join(c['source'])]
    assert f'#| fig-alt: "{drawn["ALT"]}"' in ''.join(cell['source'])
    said = ''.join(cell['outputs'][0]['data']['image/svg+xml'])
    assert re.findall(r'>([^<>]+)</text>', said) == re.findall(r'>([^<>]+)</text>', drawn['draw']())


def test_workflows(root):
    "What GitHub runs: actions of a fixed major version, and commands that the Makefile has."
    made = set(re.findall(r'^([a-z-]+|\$\(BIN\)/python):', (root / 'Makefile').read_text(), re.M)) | {
        '.venv/bin/python'
    }
    versions = re.findall(r'Python :: (3\.\d+)', (root/'pyproject.toml').read_text())
    found = {
        p.stem: yaml.safe_load(p.read_text(encoding='utf-8'))
        for p in (root / '.github/workflows').glob('*.yml')
    }
    assert (
        set(found) == {'test', 'docs'}
        and found['test']['jobs']['test']['strategy']['matrix']['python'] == versions
    )
    docs = found['docs']
    assert docs['concurrency']['cancel-in-progress'] is False and 'github.repository ==' in docs['jobs']['publish']['if']
    [quarto] = [step for step in docs['jobs']['build']['steps'] if 'quarto' in step.get('uses', '')]
    assert re.fullmatch(r'\d+\.\d+\.\d+', quarto['with']['version'])
    for workflow in found.values():
        assert workflow[True] and workflow['permissions'] == {
            'contents': 'read'
        }  # YAML 1.1 reads `on` as true
        assert all('timeout-minutes' in job for job in workflow['jobs'].values())
        for step in (s for job in workflow['jobs'].values() for s in job['steps']):
            if 'uses' in step: assert re.fullmatch(r'[\w-]+(/[\w-]+)+@v\d+', step['uses'])
            else:
                command = shlex.split(step['run'])
                assert '--index-url' not in command, 'the index of PyTorch alone has not all that it needs'
                assert command[0] == '.venv/bin/python' or (command[0] == 'make' and command[1] in made)


def test_readme_is_the_index_notebook(root):
    made, pictures = pages.readme()
    kept = (root/'README.md').read_text(encoding='utf-8')
    assert kept == made, 'README.md and nbs/index.ipynb differ: run `make readme`'
    assert pictures, 'the first screen needs its picture'
    found = {p.relative_to(root).as_posix(): p.read_bytes() for p in (root/'index_files').rglob('*') if p.is_file()}
    assert found == pictures, 'other pictures than those of nbs/index.ipynb: run `make readme`'


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
