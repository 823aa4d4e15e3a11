// Closes the list of pages on narrow screens, and searches the titles and names in INDEX (search-index.js).
if (matchMedia('(max-width: 56rem)').matches) document.querySelector('.menu').open = false

const box = document.querySelector('.search input'), list = document.querySelector('.search ol')

function found(words) { // [text, address, page, kind] of what holds all the words: names first, then those that begin with the first word
  const score = ([text, , page, kind]) => {
    const t = text.toLowerCase(), all = `${t} ${page.toLowerCase()}`
    if (!words.every(w => all.includes(w))) return 0
    return 1 + 8 * (t === words.join(' ')) + 4 * t.startsWith(words[0]) + 2 * t.includes(words[0]) + (kind !== 'heading')
  }
  return INDEX.map(entry => [score(entry), entry]).filter(([s]) => s).sort((a, b) => b[0] - a[0]).slice(0, 20).map(([, entry]) => entry)
}

box.addEventListener('input', () => {
  const words = box.value.toLowerCase().split(/\s+/).filter(w => w)
  list.replaceChildren(...(words.length ? found(words) : []).map(([text, address, page, kind]) => {
    const item = document.createElement('li'), link = document.createElement('a'), where = document.createElement('small')
    const name = document.createElement(kind === 'name' ? 'code' : 'span')
    link.href = box.dataset.up + address
    name.textContent = text
    where.textContent = kind === 'page' ? 'page' : page
    link.append(name, where)
    item.append(link)
    return item
  }))
  if (words.length && !list.children.length) list.innerHTML = '<li><a>Nothing has these words in its title or name.</a></li>'
})
document.addEventListener('keydown', event => {
  const links = [...list.querySelectorAll('a')], at = links.indexOf(document.activeElement)
  if (event.key === '/' && !/INPUT|TEXTAREA/.test(document.activeElement.tagName)) { box.focus(); event.preventDefault() }
  else if (event.key === 'Escape') { box.value = ''; list.replaceChildren() }
  else if (event.key === 'Enter' && document.activeElement === box && links.length) links[0].click()
  else if (event.key === 'ArrowDown' && links[at + 1] && (at >= 0 || document.activeElement === box)) { links[at + 1].focus(); event.preventDefault() }
  else if (event.key === 'ArrowUp' && at >= 0) { (links[at - 1] || box).focus(); event.preventDefault() }
})
document.addEventListener('click', event => { if (!event.target.closest('.search')) list.replaceChildren() })
// `index.html?q=words` searches at once.
const asked = new URLSearchParams(location.search).get('q')
if (asked) { box.value = asked; box.dispatchEvent(new Event('input')) }
